"""No process holds the whole model: of what a mesh splits, each makes its slice alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hmoe.compat.stack import tf
from tests.process_pool import ProcessPool
from tests.t5 import tiny

pytestmark = pytest.mark.slow


class _Seen(tf.train.SessionRunHook):
    """Notes the elements of each variable of a graph, by name."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def begin(self) -> None:
        self.sizes = {
            each.op.name: int(np.prod(each.shape))
            for each in [*tf.global_variables(), *tf.local_variables()]
        }


def made(folder: str) -> dict[str, int]:
    """Trains a step; returns the elements of each variable that this process made."""
    seen = _Seen()
    estimator = tiny.make(folder, "hierarchical_tiny", "cpu_2x2")
    estimator.train(tiny.input_fn(tiny.ids(8)), max_steps=1, hooks=[seen])
    return seen.sizes


def test_variables_are_those_of_the_slice(four_processes: ProcessPool, tmp_path: Path) -> None:
    found = four_processes.run(made, str(tmp_path))
    saved = {name: value.size for name, value in tiny.weights(tmp_path).items()}
    experts = [name for name in saved if "/MoELayer/w" in name]
    assert len(experts) == 2 * 2 * 3  # of the optimizer too
    for sizes in found:
        slices = {
            name.removesuffix("_slice"): size
            for name, size in sizes.items()
            if name.endswith("_slice")
        }
        assert {name: slices[name] for name in experts} == {
            name: saved[name] / 4 for name in experts
        }
        outer = [name for name in saved if "/inner_gating/kernel" in name]
        assert {slices[name] / saved[name] for name in outer} == {1 / 2}
        # Under no other name is there the whole of any of them; words are not split here.
        others = [size for name, size in sizes.items() if "shared/embedding" not in name]
        assert max(each for each in others if each != saved["decoder/logits/kernel"]) < min(
            saved[name] for name in experts
        )
