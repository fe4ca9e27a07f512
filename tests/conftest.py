"""What every test needs before TensorFlow starts."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# TensorFlow reads these when it is imported. Tolerances are those of float32 on a processor; a
# GPU would multiply in fewer bits.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def pytest_configure(config: pytest.Config) -> None:
    """Starts TensorFlow where tests run: not in a process that only hands them to others."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        _start_tensorflow()


@pytest.fixture(scope="module", params=["hmoe", "mesh_tensorflow"])
def mesh_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test on the meshes of `hmoe train`, and on Mesh TensorFlow's own."""
    from tests import meshes

    with meshes.using(request.param):
        yield request.param


def _start_tensorflow() -> None:
    from hmoe import compat
    from hmoe.compat import stack  # noqa: F401  (before any test imports mesh_tensorflow)

    # Once for the whole session, before any test makes a graph: resource variables, always.
    compat.behave_like_v1()
    # TensorFlow notes the whole Python stack for every operation, a tenth of the time that tests
    # take. One stack for all does as well, but for "original stack trace" in an error of a running
    # graph: HMOE_TEST_STACKS=1 brings those back.
    if not os.environ.get("HMOE_TEST_STACKS"):
        from tensorflow.python.util import tf_stack

        noted = tf_stack.extract_stack()
        tf_stack.extract_stack = lambda stacklevel=1: noted
