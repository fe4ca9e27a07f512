"""The mesh of every test: that of `hmoe train`, or Mesh TensorFlow's own beside it.

`lower` takes the engine that `hmoe train` takes, with all that it does to shorten a graph. A test
with the fixture `mesh_engine` runs on it and on Mesh TensorFlow's placement.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from hmoe.compat.stack import mtf
from hmoe.lowering import lower as shipped

HMOE, MESH_TENSORFLOW = ENGINES = ("hmoe", "mesh_tensorflow")
_KINDS = {HMOE: shipped.make_mesh, MESH_TENSORFLOW: mtf.placement_mesh_impl.PlacementMeshImpl}
_current = [HMOE]


@contextlib.contextmanager
def using(engine: str) -> Iterator[None]:
    """Within it, meshes are of this engine."""
    _current.append(engine)
    try:
        yield
    finally:
        _current.pop()


def current() -> str:
    """The engine of meshes made now."""
    return _current[-1]


def cached(function: Callable) -> Callable:
    """As `functools.cache`, apart for each engine."""

    @functools.cache
    def of_engine(engine: str, *arguments: Any, **more: Any) -> Any:
        with using(engine):
            return function(*arguments, **more)

    @functools.wraps(function)
    def call(*arguments: Any, **more: Any) -> Any:
        return of_engine(current(), *arguments, **more)

    return call


def implementation(
    shape: str = "", layout: str = "", devices: list[str] | None = None
) -> mtf.MeshImpl:
    """A simulated mesh; `devices` are "" unless told."""
    shape = mtf.convert_to_shape(shape or [])
    return _KINDS[current()](
        shape, mtf.convert_to_layout_rules(layout or []), devices or [""] * shape.size
    )


def lower(
    mesh: mtf.Mesh,
    shape: str = "",
    layout: str = "",
    devices: list[str] | None = None,
    autostack: bool = True,
) -> mtf.Lowering:
    """Lowers the graph of a mesh."""
    engine = implementation(shape, layout, devices)
    if current() == MESH_TENSORFLOW:
        return mtf.Lowering(mesh.graph, {mesh: engine}, autostack=autostack)
    some = mesh.graph.operations[0].outputs[0]
    return shipped.lower(some, engine, autostack=autostack)
