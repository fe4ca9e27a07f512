"""Mesh TensorFlow imports after `import hmoe`; each import in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

UPSTREAM = "[n for n in sys.modules if n.split('.')[0] in ('mesh_tensorflow', 't5')]"


def run_python(*lines: str) -> str:
    """Runs lines of Python in a new process and returns what they print."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The README's `import hmoe` and `import mesh_tensorflow as mtf` run in its own test.
CASES = [
    ["import hmoe, t5", "import t5.models", "print(t5.models.MtfModel.__module__[-1])"],
]
MORE_CASES = [
    ["import hmoe", "from mesh_tensorflow.transformer import utils", "print(utils.__name__[-1])"],
    ["import t5, hmoe", "import t5.models", "print(t5.models.MtfModel.__module__[-1])"],
    ["import tensorflow, hmoe, mesh_tensorflow as mtf", "print(mtf.Dimension('a', 2).name)"],
    ["import hmoe.compat.stack as stack", "print(stack.mtf.Dimension('a', 2).name)"],
]


@pytest.mark.parametrize(
    "lines",
    [*CASES, *(pytest.param(lines, marks=pytest.mark.slow) for lines in MORE_CASES)],
    ids=lambda lines: "; ".join(lines[:-1]),
)
def test_upstream_imports_after_hmoe(lines: list[str]) -> None:
    assert run_python(*lines) in ("a\n", "s\n", "l\n")


def test_importing_hmoe_and_looking_for_upstream_load_nothing() -> None:
    assert (
        run_python(
            "import sys, hmoe, importlib.util",
            "found = importlib.util.find_spec('mesh_tensorflow'), importlib.util.find_spec('t5')",
            "print([bool(spec.submodule_search_locations) for spec in found])",
            f"print({UPSTREAM}, 'tensorflow' in sys.modules)",
        )
        == "[True, True]\n[] False\n"
    )


def test_upstream_imports_after_attempts_without_hmoe() -> None:
    assert (
        run_python(
            "import importlib",
            "for name in ('mesh_tensorflow', 'mesh_tensorflow.transformer.utils', 't5.models'):",
            "    try:",
            "        importlib.import_module(name)",
            "        print('worked before')",
            "    except Exception:",
            "        pass",
            "import hmoe, mesh_tensorflow as mtf",
            "from mesh_tensorflow.transformer import utils",
            "import t5.models",
            "mesh = mtf.Mesh(mtf.Graph(), 'mesh')",
            "print(mtf.zeros(mesh, [mtf.Dimension('a', 2)]).shape.dimension_names)",
            "print(mtf.utils.__name__, callable(utils.run), t5.models.MtfModel.__name__)",
        ).replace("worked before\n", "")
        == "['a']\nmesh_tensorflow.utils True MtfModel\n"
    )


@pytest.mark.slow
def test_reloading_keeps_one_finder_and_the_loaders_of_python() -> None:
    assert (
        run_python(
            "import importlib, sys, hmoe",
            "import mesh_tensorflow as mtf",
            "hmoe, mtf = importlib.reload(hmoe), importlib.reload(mtf)",
            "print(sum(type(each).__name__ == 'StandInsFirst' for each in sys.meta_path))",
            "print(type(mtf.__spec__.loader).__name__, 'exec_module' in vars(mtf.__spec__.loader))",
            "import pkg_resources",
            "print(pkg_resources.resource_exists('mesh_tensorflow', 'transformer/gin/defaults.gin'))",
        )
        == "1\nSourceFileLoader False\nTrue\n"
    )


@pytest.mark.slow
def test_threads_that_import_at_once_get_the_same_stand_ins() -> None:
    """Without T5, whose own import of TensorFlow does not bear another one beside it."""
    assert (
        run_python(
            "import hmoe, importlib, threading",
            "names = ['mesh_tensorflow', 'mesh_tensorflow.transformer.utils'] * 3",
            "imported = []",
            "def load(name): imported.append(importlib.import_module(name).__name__)",
            "threads = [threading.Thread(target=load, args=[name]) for name in names]",
            "[thread.start() for thread in threads]",
            "[thread.join() for thread in threads]",
            "import tensorflow as tf",
            "from mesh_tensorflow.transformer import utils",
            "from tensorflow.python.tpu import tpu_estimator",
            "print(sorted(imported) == sorted(names), utils.tpu_estimator is tpu_estimator)",
            "print(tf.estimator.ModeKeys is tf.compat.v1.estimator.ModeKeys)",
        )
        == "True True\nTrue\n"
    )


@pytest.mark.slow
def test_a_module_that_does_not_exist_is_still_not_found() -> None:
    assert (
        run_python(
            "import hmoe, importlib.util",
            "try:",
            "    import mesh_tensorflow.none",
            "except ModuleNotFoundError as error:",
            "    print(error)",
            "print(importlib.util.find_spec('mesh_tensorflow_none'))",
        )
        == "No module named 'mesh_tensorflow.none'\nNone\n"
    )
