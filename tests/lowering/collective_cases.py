"""What each process of a mesh computes for `tests.lowering.test_collective`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh, Slice
from hmoe.t5.sessions import processes
from tests import graphs

# A slice; each mesh axis divides the second dimension.
SHAPE = (2, 12, 5)
DTYPES = ("float32", "int32", "bool", "bfloat16")
MERGES = ("SUM", "MAX", "MIN")
# For an axis of each size where it receives from: nobody, itself, others.
SOURCES = {1: [0], 2: [None, 0], 4: [2, None, 2, 0], 12: [11, *range(11)]}
ITERATIONS = 3


def slice_of(dtype: str, where: Sequence[int]) -> np.ndarray:
    """Returns whole numbers that tell where a slice is; sums of them are exact in all types."""
    draws = np.random.RandomState([DTYPES.index(dtype), *where])
    values = draws.randint(-9, 10, SHAPE)
    return (
        values > 0
        if dtype == "bool"
        else values.astype(np.int32 if dtype == "int32" else np.float32)
    )


def whole_of(shape: Sequence[int]) -> np.ndarray:
    """Returns a whole tensor of numbers that all differ."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def axes_of(rank: int) -> list[tuple[int, ...]]:
    """Returns all choices of axes, also in an order that is not the mesh's."""
    found = [c for size in range(1, rank + 1) for c in itertools.combinations(range(rank), size)]
    return found + ([(1, 0)] if rank > 1 else [])


def orders_of(rank: int) -> list[list[int | None]]:
    """Returns which mesh axis splits each dimension of whole tensors."""
    axes = list(range(rank))
    return [[None, *axes], [*reversed(axes), None], [axes[-1], None], [None, None]]


def compute(shape: str, layout: str) -> dict[str, Any]:
    """Runs every method of the mesh in one graph.

    Returns:
      What this process has, by name; "number", "pnum" and "coordinates" of the process.
    """
    with tf.Graph().as_default():
        mesh = processes.mesh(mtf.convert_to_shape(shape), mtf.convert_to_layout_rules(layout))
        results: dict[str, tf.Tensor] = {}
        for dtype in DTYPES:
            _exchange(mesh, dtype, results)
        for merge, axes in itertools.product(MERGES, axes_of(mesh.ndims)):
            for dtype in ("float32", "int32", "bfloat16"):
                x = _constant(mesh, dtype)
                results[f"{merge} {dtype} {axes}"] = mesh.allreduce(x, axes, merge).one_slice
        for order in orders_of(mesh.ndims):
            _move(mesh, order, results)
        for axis in range(mesh.ndims):
            results[f"loop {axis}"] = _loop(mesh, axis)
        results["broadcast"] = _broadcast(mesh).one_slice
        fetched = {
            name: tf.cast(each, tf.float32) if each.dtype == tf.bfloat16 else each
            for name, each in results.items()
        }
        mesh.finish(fetched.values())
        with graphs.quick_session() as session:
            found = session.run(fetched)
    pcoords = tuple(mesh.laid_out_pcoord(axis).one_slice for axis in range(mesh.ndims))
    assert pcoords == mesh.coordinates
    assert mesh.laid_out_pnum().one_slice == mesh.pnum
    return {**found, "number": mesh.number, "pnum": mesh.pnum, "coordinates": mesh.coordinates}


def _constant(mesh: CollectiveMesh, dtype: str) -> Slice:
    value = slice_of(dtype, mesh.coordinates)
    return mesh.slicewise(lambda: tf.cast(tf.constant(value), dtype))


def _exchange(mesh: CollectiveMesh, dtype: str, results: dict[str, tf.Tensor]) -> None:
    """Adds results of all-gathers, all-to-alls and receiving along each axis."""
    x = _constant(mesh, dtype)
    for axis, dim in enumerate(mesh.shape.dims):
        for along in range(3):
            results[f"concat {dtype} {axis} {along}"] = mesh.allconcat(x, axis, along).one_slice
        for along in (0, 1, 2):
            got = mesh.alltoall(x, axis, 1, along)
            results[f"alltoall {dtype} {axis} {along}"] = got.one_slice
        got = mesh.receive(x, axis, SOURCES[dim.size])
        results[f"receive {dtype} {axis}"] = got.one_slice
        for wrap in (False, True):
            got = mesh.shift_by_n_processors(x, axis, 1, wrap)
            results[f"shift {dtype} {axis} {wrap}"] = got.one_slice


def _dim_of(mesh: CollectiveMesh, axis: int, size: int) -> mtf.Dimension:
    """Returns a dimension that the layout splits over an axis."""
    name = mesh.shape.dims[axis].name
    return mtf.Dimension(min(d for d, a in mesh.layout_rules._pairs if a == name), size)


def _move(mesh: CollectiveMesh, order: list[int | None], results: dict[str, tf.Tensor]) -> None:
    """Adds the slice of a whole tensor, and the whole tensor made of the slices again."""
    dims = [
        mtf.Dimension(f"whole_{place}", 3 + place) if axis is None else _dim_of(mesh, axis, 12)
        for place, axis in enumerate(order)
    ]
    x: Any = SimpleNamespace(shape=mtf.Shape(dims))
    cut = mesh.import_tf_tensor(x, tf.constant(whole_of([dim.size for dim in dims])))
    results[f"import {order}"] = cut.one_slice
    results[f"export {order}"] = mesh.export_to_tf_tensor(x, cut)


def _loop(mesh: CollectiveMesh, axis: int) -> tf.Tensor:
    """Exchanges in each iteration; see `test_collective.looped`."""
    first = _constant(mesh, "float32").one_slice

    def body(number: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        there = mesh.alltoall(Slice([x]), axis, 1, 2)
        there = mesh.slicewise(lambda t: t + tf.cast(number, tf.float32), there)
        back = mesh.alltoall(there, axis, 2, 1)
        largest = mesh.allreduce(back, [axis], "MAX")
        gathered = mesh.allconcat(Slice([largest.one_slice - x]), axis, 0)
        n = mesh.shape.dims[axis].size
        return number + 1, tf.add_n(tf.split(gathered.one_slice, n, 0)) + x

    condition: Callable = lambda number, x: number < ITERATIONS  # noqa: E731
    return tf.while_loop(condition, body, [tf.constant(0), first])[1]


def _broadcast(mesh: CollectiveMesh) -> Slice:
    a, b = _dim_of(mesh, 0, 12), mtf.Dimension("whole", 3)
    x = mesh.import_tf_tensor(SimpleNamespace(shape=mtf.Shape([a])), tf.range(12))
    return mesh.broadcast_impl(x, mtf.Shape([a]), mtf.Shape([b, a]))
