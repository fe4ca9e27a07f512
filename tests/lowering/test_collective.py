"""Every method of a mesh of processes, against numpy on the slices of all of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tests.lowering import collective_cases as cases
from tests.process_pool import ProcessPool

# Where each process is, by hand: the axis of the inner experts varies fastest with its number, then
# those of weights alone; otherwise the last axis does.
INNER_FIRST = "outer_batch:rows;expert_y:rows;batch:cols;expert_x:cols"
PLAIN = {2: "d_0:a;d_1:b", 3: "d_0:a;d_1:b;d_2:c", 1: "d_0:a"}
MESHES: dict[str, tuple[str, str, Callable[[int], tuple[int, ...]]]] = {
    "2": ("a:2", PLAIN[1], lambda n: (n,)),
    "4": ("a:4", PLAIN[1], lambda n: (n,)),
    "2x2": ("rows:2;cols:2", INNER_FIRST, lambda n: (n % 2, n // 2)),
    "1x4": ("a:1;b:4", PLAIN[2], lambda n: (0, n)),
    "2x1x2": ("a:2;b:1;c:2", PLAIN[3], lambda n: (n // 2, 0, n % 2)),
    "4x2": ("rows:4;cols:2", INNER_FIRST, lambda n: (n % 4, n // 4)),
    "2x2x2": ("a:2;b:2;c:2", PLAIN[3], lambda n: (n // 4, n // 2 % 2, n % 2)),
}


class Oracle:
    """The slices of all processes, by their coordinates.

    Args:
      sizes: the size of each mesh axis.
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = sizes
        self.all = list(itertools.product(*map(range, sizes)))

    def group(self, where: tuple[int, ...], axes: Sequence[int]) -> list[tuple[int, ...]]:
        """Returns the coordinates that differ from these along some axes alone, in order."""
        return [
            w for w in self.all if all(w[a] == where[a] for a in range(len(w)) if a not in axes)
        ]

    def along(self, where: tuple[int, ...], axis: int) -> list[tuple[int, ...]]:
        return [(*where[:axis], at, *where[axis + 1 :]) for at in range(self.sizes[axis])]


def reduced(oracle: Oracle, where: Any, dtype: str, axes: Sequence[int], merge: str) -> np.ndarray:
    function = {"SUM": np.sum, "MAX": np.max, "MIN": np.min}[merge]
    return function([cases.slice_of(dtype, w) for w in oracle.group(where, axes)], axis=0)


def received(oracle: Oracle, where: Any, dtype: str, axis: int, sources: Any) -> np.ndarray:
    source = sources[where[axis]]
    zeros = np.zeros_like(cases.slice_of(dtype, where))
    return zeros if source is None else cases.slice_of(dtype, oracle.along(where, axis)[source])


def exchanged(
    values: Mapping[Any, np.ndarray], oracle: Oracle, where: Any, axis: int, split: int, concat: int
) -> np.ndarray:
    n = oracle.sizes[axis]
    parts = [np.split(values[w], n, split)[where[axis]] for w in oracle.along(where, axis)]
    return np.concatenate(parts, concat)


def cut(whole: np.ndarray, oracle: Oracle, where: Any, order: Sequence[int | None]) -> np.ndarray:
    for dimension, axis in enumerate(order):
        if axis is not None:
            whole = np.split(whole, oracle.sizes[axis], dimension)[where[axis]]
    return whole


def looped(oracle: Oracle, axis: int) -> dict[Any, np.ndarray]:
    """Runs the loop of the cases for all processes at once."""
    x = {where: cases.slice_of("float32", where) for where in oracle.all}
    for number in range(cases.ITERATIONS):
        there = {w: exchanged(x, oracle, w, axis, 1, 2) + number for w in oracle.all}
        back = {w: exchanged(there, oracle, w, axis, 2, 1) for w in oracle.all}
        largest = {w: np.max([back[v] for v in oracle.along(w, axis)], 0) for w in oracle.all}
        x = {
            w: x[w] + np.sum([largest[v] - x[v] for v in oracle.along(w, axis)], 0)
            for w in oracle.all
        }
    return x


def expected_of(oracle: Oracle, where: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Returns what the process at these coordinates must have."""
    found: dict[str, np.ndarray] = {}
    rank = len(where)
    for dtype, axis in itertools.product(cases.DTYPES, range(rank)):
        values = {w: cases.slice_of(dtype, w) for w in oracle.all}
        n = oracle.sizes[axis]
        for at in range(3):
            found[f"concat {dtype} {axis} {at}"] = np.concatenate(
                [values[w] for w in oracle.along(where, axis)], at
            )
            found[f"alltoall {dtype} {axis} {at}"] = exchanged(values, oracle, where, axis, 1, at)
        receive = functools.partial(received, oracle, where, dtype, axis)
        found[f"receive {dtype} {axis}"] = receive(cases.SOURCES[n])
        found[f"shift {dtype} {axis} False"] = receive([None, *range(n - 1)])
        found[f"shift {dtype} {axis} True"] = receive([n - 1, *range(n - 1)])
    for merge, axes in itertools.product(cases.MERGES, cases.axes_of(rank)):
        for dtype in ("float32", "int32", "bfloat16"):
            found[f"{merge} {dtype} {axes}"] = reduced(oracle, where, dtype, axes, merge)
    for order in cases.orders_of(rank):
        whole = cases.whole_of([3 + n if a is None else 12 for n, a in enumerate(order)])
        found[f"export {order}"] = whole
        found[f"import {order}"] = cut(whole, oracle, where, order)
    for axis in range(rank):
        found[f"loop {axis}"] = looped(oracle, axis)[where]
    part = np.split(np.arange(12), oracle.sizes[0])[where[0]]
    found["broadcast"] = np.stack([part] * 3)
    return found


def check(pool: ProcessPool, mesh: str) -> None:
    shape, layout, place_of = MESHES[mesh]
    oracle = Oracle([int(axis.split(":")[1]) for axis in shape.split(";")])
    results = pool.run(cases.compute, shape, layout)
    assert [each.pop("number") for each in results] == list(range(pool.size))
    for number, mine in enumerate(results):
        where = place_of(number)
        assert mine.pop("coordinates") == where
        assert mine.pop("pnum") == oracle.all.index(where)
        expected = expected_of(oracle, where)
        assert sorted(mine) == sorted(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(mine[name], value, f"{name} of process {number}")


@pytest.mark.parametrize(
    "mesh", ["2x2", "2x1x2", *[pytest.param(m, marks=pytest.mark.slow) for m in ("4", "1x4")]]
)
def test_four_processes_compute_what_numpy_does(four_processes: ProcessPool, mesh: str) -> None:
    check(four_processes, mesh)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["4x2", "2x2x2"])
def test_eight_processes_compute_what_numpy_does(eight_processes: ProcessPool, mesh: str) -> None:
    check(eight_processes, mesh)


@pytest.fixture(scope="module")
def two_processes() -> Iterator[ProcessPool]:
    pool = ProcessPool(2)
    yield pool
    pool.close()


@pytest.mark.slow
def test_two_processes_compute_what_numpy_does(two_processes: ProcessPool) -> None:
    check(two_processes, "2")


@pytest.mark.slow
def test_twelve_processes_keep_their_order() -> None:
    """TensorFlow orders the members of a group; by name, task:10 would stand before task:2."""
    pool = ProcessPool(12)
    try:
        shape = "a:12"
        results = pool.run(cases.compute, shape, PLAIN[1])
        oracle = Oracle([12])
        for number, mine in enumerate(results):
            expected = expected_of(oracle, (number,))
            for name, value in expected.items():
                np.testing.assert_array_equal(mine[name], value, f"{name} of process {number}")
    finally:
        pool.close()
