"""Numbers that other systems gave, each file beside the script that asked for them.

The scripts run where TensorFlow, or this package, may not be installed, so this module needs
numpy alone. An array is called "<case>/<what>", weights and gradients go by the names of our
variables.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from tests import seeded

FOLDER = pathlib.Path(__file__).parent

Arrays = dict[str, np.ndarray]


def normal(name: str, shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
    """float32 numbers that depend on a name alone."""
    return (seeded.generator(name).randn(*shape) * scale).astype(np.float32)


def save(name: str, versions: dict[str, str], cases: dict[str, Arrays]) -> None:
    """Writes `<name>.npz`; versions are those of the packages that gave the numbers."""
    arrays = {
        f"{case}/{what}": np.asarray(value)
        for case, of_case in cases.items()
        for what, value in of_case.items()
    }
    arrays["versions"] = np.array([f"{package} {number}" for package, number in versions.items()])
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes; {arrays['versions']}")


def load(name: str) -> dict[str, Arrays]:
    """Arrays of each case of a file."""
    cases: dict[str, Arrays] = {}
    with np.load(FOLDER / f"{name}.npz") as arrays:
        for key in arrays.files:
            case, _, what = key.partition("/")
            if what:
                cases.setdefault(case, {})[what] = arrays[key]
    return cases


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays below a prefix, without it."""
    return {
        what[len(prefix) + 1 :]: value
        for what, value in arrays.items()
        if what.startswith(f"{prefix}/")
    }
