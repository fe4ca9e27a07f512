"""Makes the simulated mesh of every test: the one that `hmoe train` uses, or Mesh TensorFlow's.

A test is lowered by the engine that `hmoe train` uses, with everything that shortens its graph. With
the fixture `mesh_engine` a test runs on it and on Mesh TensorFlow's own placement.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import lower as shipped
from hmoe.lowering.collective import CollectiveMesh
from hmoe.t5.sessions import processes

#: Layout rules that split two levels over the axes `rows` and `cols`.
TWO_AXES = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"

HMOE, MESH_TENSORFLOW = ENGINES = ("hmoe", "mesh_tensorflow")
#: The mesh of `hmoe train --workers`, inside a process of `tests.process_pool`.
PROCESSES = "processes"
_KINDS = {
    HMOE: shipped.make_mesh,
    MESH_TENSORFLOW: mtf.placement_mesh_impl.PlacementMeshImpl,
    PROCESSES: lambda shape, layout, devices: processes.mesh(shape, layout),
}
_current = [HMOE]


@contextlib.contextmanager
def using(engine: str) -> Iterator[None]:
    """Makes all meshes within the context with this engine."""
    _current.append(engine)
    try:
        yield
    finally:
        _current.pop()


def current() -> str:
    """Returns the name of the engine that meshes are made with now."""
    return _current[-1]


def kind() -> type[mtf.MeshImpl]:
    """Returns the class of the meshes that are made now."""
    return type(implementation())


def cached(function: Callable) -> Callable:
    """Caches results like `functools.cache`, separately for each engine."""

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
    """Returns a simulated mesh; without `devices` TensorFlow places its slices."""
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
    """Lowers the graph that holds a mesh."""
    engine = implementation(shape, layout, devices)
    if current() == MESH_TENSORFLOW:
        return mtf.Lowering(mesh.graph, {mesh: engine}, autostack=autostack)
    some = mesh.graph.operations[0].outputs[0]
    return shipped.lower(some, engine, autostack=autostack)


def finish(lowering: mtf.Lowering, roots: Any) -> None:
    """Completes a lowered graph once everything is exported.

    Args:
      lowering: the lowered graph.
      roots: everything that is to be run, in dicts and lists.
    """
    for mesh_impl in lowering.mesh_to_impl.values():
        if isinstance(mesh_impl, CollectiveMesh):
            mesh_impl.finish(tf.nest.flatten(roots))
