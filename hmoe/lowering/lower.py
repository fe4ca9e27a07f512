"""Makes meshes and lowers named-dimension graphs onto them, with fewer operations than upstream.

TensorFlow prepares a graph in time proportional to its operations, before the first step and in
Python. Of a T5's graph two fifths are constants, of a few hundred different values, and a tenth are
transposes that change nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import graph_hooks
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.placement import SharingPlacement
from hmoe.mesh.layout import check_dimensions, dimensions


def make_mesh(
    shape: mtf.Shape,
    layout: mtf.LayoutRules,
    devices: list[str],
    *,
    reuse_graph: bool = True,
) -> mtf.MeshImpl:
    """Makes the implementation of a mesh on CPUs and GPUs.

    Args:
      shape: axes of the mesh.
      layout: which dimension is split over which axis.
      devices: a name for each slice of the mesh; "" for wherever TensorFlow likes. A simulated
        mesh names one device several times.
      reuse_graph: whether slices take over operations that were built for others. Without it,
        graphs take longer to build and compute the same.
    """
    return SharingPlacement(shape, layout, devices, reuse_graph=reuse_graph)


def make_mesh_of_processes(
    shape: mtf.Shape, layout: mtf.LayoutRules, number: int, device: str, *, hint: str = "auto"
) -> CollectiveMesh:
    """Makes the implementation of a mesh whose slices live in processes, one in each.

    Args:
      shape: axes of the mesh, whose size is the number of processes.
      layout: which dimension is split over which axis.
      number: the number of this process; `hmoe.startup.mesh_order` says where its slice is.
      device: TensorFlow's name of the device of this process, such as "/job:worker/task:2/gpu:0".
      hint: how TensorFlow is to communicate: "auto" for gRPC, or "nccl" between GPUs.
    """
    return CollectiveMesh(shape, layout, number, device, hint)


def lower(
    some: mtf.Tensor,
    mesh_impl: mtf.MeshImpl,
    *,
    autostack: bool = True,
    log_file: str | None = None,
) -> mtf.Lowering:
    """Lowers the graph of a tensor into TensorFlow's default graph.

    Args:
      some: a tensor of the graph.
      mesh_impl: the mesh to lower to, by `make_mesh` or another implementation.
      autostack: whether variables of one shape are kept as one stacked variable on the devices.
      log_file: where to write about variables and operations, beside TensorFlow's log.

    Returns:
      The lowering.

    Raises:
      ValueError: the mesh cannot share a dimension that the layout splits.
    """
    check_dimensions(dimensions(some.graph.operations), mesh_impl.shape, mesh_impl.layout_rules)
    if isinstance(mesh_impl, CollectiveMesh):
        autostack = False  # a stacked variable is no part of one that is saved
    with contextlib.ExitStack() as hooks:
        if not isinstance(mesh_impl, SharingPlacement) or mesh_impl.reuse_graph:
            hooks.enter_context(_shared_constants(tf.get_default_graph()))
            hooks.enter_context(graph_hooks.aligning(aligned))
        return mtf.Lowering(
            some.graph, {some.mesh: mesh_impl}, autostack=autostack, log_file=log_file
        )


@contextlib.contextmanager
def _shared_constants(graph: tf.Graph) -> Iterator[None]:
    """Within it, constants of one value on one device are one operation.

    Those inside loops, control dependencies and the like stay apart: there, an operation is more
    than its value.
    """
    known: dict[Hashable, tf.Operation] = {}

    def create_or_share(
        create: Callable, op_type: str, inputs: Sequence[tf.Tensor], **keywords: Any
    ) -> tf.Operation:
        if op_type != "Const" or not graph_hooks.is_plain(graph):
            return create(op_type, inputs, **keywords)
        key = (keywords["attrs"]["value"].SerializeToString(), *graph_hooks.devices(graph))
        if key not in known:
            known[key] = create(op_type, inputs, **keywords)
        return known[key]

    with graph_hooks.creating(graph, create_or_share):
        yield


def aligned(x: tf.Tensor, input_shape: mtf.Shape, output_shape: mtf.Shape) -> tf.Tensor:
    """Puts the dimensions of a slice where TensorFlow's broadcasting finds them.

    Takes one operation or none, where Mesh TensorFlow's own function takes several.

    Args:
      x: a slice of a tensor of `input_shape`.
      input_shape: its dimensions.
      output_shape: these and more, in any order.

    Returns:
      The slice with its dimensions in the order of `output_shape`, and dimensions of size 1 in
      place of those that it lacks behind its first.
    """
    given = input_shape.dims
    wanted = [dim for dim in output_shape.dims if dim in given]
    if len(wanted) < len(given):
        raise ValueError(f"{input_shape} has dimensions that {output_shape} lacks")
    if wanted != given:
        x = tf.transpose(x, [given.index(dim) for dim in wanted])
    if not given or output_shape.dims[-len(wanted) :] == wanted:
        return x
    known = x.shape.is_fully_defined()
    sizes = dict(zip(wanted, x.shape if known else tf.unstack(tf.shape(x), len(wanted))))
    behind = output_shape.dims[output_shape.dims.index(wanted[0]) :]
    return tf.reshape(x, [sizes.get(dim, 1) for dim in behind])
