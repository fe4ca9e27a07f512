"""Prepares TensorFlow for all tests, and runs tests on two kinds of simulated mesh."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.process_pool import ProcessPool

# TensorFlow reads these when it is imported. The tolerances hold for float32 on a processor; a GPU
# would multiply with fewer bits.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def pytest_configure(config: pytest.Config) -> None:
    """Starts TensorFlow, except in a process that only hands tests to others."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        _start_tensorflow()


@pytest.fixture(scope="module", params=["hmoe", "mesh_tensorflow"])
def mesh_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test on the mesh that `hmoe train` uses, and on Mesh TensorFlow's own."""
    from tests import meshes

    with meshes.using(request.param):
        yield request.param


@pytest.fixture(scope="session")
def four_processes() -> Iterator[ProcessPool]:
    """Four processes that share meshes."""
    pool = ProcessPool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def eight_processes() -> Iterator[ProcessPool]:
    """Eight, for slow tests."""
    pool = ProcessPool(8)
    yield pool
    pool.close()


def _start_tensorflow() -> None:
    from hmoe import compat
    from hmoe.compat import stack

    # Once for the whole session, before any test makes a graph: resource variables, always.
    compat.behave_like_v1()
    # TensorFlow records the Python stack of every operation, which takes a tenth of the time of the
    # tests. They record one stack for all, which only spoils the "original stack trace" in an error
    # of a running graph: HMOE_TEST_STACKS=1 brings it back.
    if not os.environ.get("HMOE_TEST_STACKS"):
        from tensorflow.python.util import tf_stack

        stack = tf_stack.extract_stack()
        tf_stack.extract_stack = lambda stacklevel=1: stack
