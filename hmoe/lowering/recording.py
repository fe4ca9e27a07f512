"""Notes what devices send, while a graph is really lowered: the truth that estimates are held to.

A mesh of `recorded(engine)` does what one of `engine` does, and notes each call of its collectives.
It asks the engine and not TensorFlow's graph, since an engine may build one operation for several
devices, and several operations for one collective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import graph_hooks
from hmoe.lowering.kinds import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, SHIFT

# The slices of a tensor, or a sum over devices that is made when it is read.
LaidOut: TypeAlias = Any

# How TensorFlow calls the collectives of a TPU.
_OF_TPUS = ("AllToAll", "CollectivePermute", "CrossReplicaSum")


class Record(NamedTuple):
    """One collective, as one device runs it.

    Attributes:
      kind: what is run: ALL_TO_ALL, ALL_REDUCE, ALL_GATHER or SHIFT.
      axes: names of the mesh axes along which the devices of a group differ, in the order of the
        mesh; axes of size 1 are left out.
      dtype: type of what is sent; a TPU sends other types than it is given.
      shape: shape of what a device puts in.
      group: number of devices of a group.
      loops: names of the loops around it, outermost first; it runs once an iteration of each.
      asked: the kind that the engine was asked for. On TPUs an all-gather is an all-reduce of the
        whole tensor, and so is, for each axis, a reduction other than a sum.
      scope: TensorFlow's name scope, which Mesh TensorFlow calls after the operation that it
        lowers. A sum over devices is in the scope of the operation that reads it first.
      source: name of the tensor of the first device that is put in. Its scope tells which operation
        made it, for a sum the one that left parts to be added up.
      result: name of the tensor of the first device that comes out.
    """

    kind: str
    axes: tuple[str, ...]
    dtype: tf.DType
    shape: tuple[int, ...]
    group: int
    loops: tuple[str, ...]
    asked: str
    scope: str
    source: str
    result: str

    @property
    def size(self) -> int:
        """Bytes of what a device puts in, of which it sends a part or multiples by the kind."""
        return math.prod(self.shape) * self.dtype.size


class Recorder(mtf.MeshImpl):
    """Notes the collectives of the engine that stands behind it among the base classes.

    Attributes:
      records: a record of each collective of groups of two devices or more, in their order.
    """

    def __init__(self, *arguments: Any, **named: Any):
        """See the engine."""
        super().__init__(*arguments, **named)
        self.records: list[Record] = []
        self._asked: list[str] = []

    def allreduce(self, x: LaidOut, mesh_axes: Sequence[int], reduction_fn_string: str) -> LaidOut:
        """See the engine."""
        run = super().allreduce
        return self._noted(
            ALL_REDUCE, x, mesh_axes, lambda given: run(given, mesh_axes, reduction_fn_string)
        )

    def allconcat(self, x: LaidOut, mesh_axis: int, concat_axis: int, **more: bool) -> LaidOut:
        """See the engine."""
        run = super().allconcat
        return self._noted(
            ALL_GATHER, x, [mesh_axis], lambda given: run(given, mesh_axis, concat_axis, **more)
        )

    def alltoall(self, x: LaidOut, mesh_axis: int, split_axis: int, concat_axis: int) -> LaidOut:
        """See the engine."""
        run = super().alltoall
        return self._noted(
            ALL_TO_ALL, x, [mesh_axis], lambda given: run(given, mesh_axis, split_axis, concat_axis)
        )

    def receive(self, x: LaidOut, mesh_axis: int, source_pcoord: Sequence[int | None]) -> LaidOut:
        """See the engine; it is noted if a device receives from another one."""
        moves = any(source not in (None, at) for at, source in enumerate(source_pcoord))
        run = super().receive
        return self._noted(
            SHIFT,
            x,
            [mesh_axis] if moves else [],
            lambda given: run(given, mesh_axis, source_pcoord),
        )

    def _noted(
        self, kind: str, x: LaidOut, mesh_axes: Sequence[int], run: Callable[[LaidOut], LaidOut]
    ) -> LaidOut:
        # Before the records are counted: it may be a sum that is made now, for whoever asks.
        given = x.to_laid_out_tensor()
        number = len(self.records)
        self._asked.append(kind)
        try:
            received = run(given)
        finally:
            asked = self._asked[0]
            self._asked.pop()
        axes = [axis for axis in sorted(mesh_axes) if self.shape.dims[axis].size > 1]
        # An engine may build a collective of others, which then have noted themselves.
        if axes and len(self.records) == number:
            before, after = given.all_slices[0], received.to_laid_out_tensor().all_slices[0]
            self.records.append(self._record(kind, asked, axes, before, after))
        return received

    def _record(
        self, kind: str, asked: str, axes: list[int], before: tf.Tensor, after: tf.Tensor
    ) -> Record:
        dims = [self.shape.dims[axis] for axis in axes]
        sent = _sent(before, after)
        graph = tf.get_default_graph()
        return Record(
            kind=kind,
            axes=tuple(dim.name for dim in dims),
            dtype=sent.dtype.base_dtype,
            shape=tuple(sent.shape.as_list()),
            group=math.prod(dim.size for dim in dims),
            loops=tuple(graph_hooks.while_loops(graph)),
            asked=asked,
            scope=graph.get_name_scope(),
            source=before.name,
            result=after.name,
        )


def recorded(engine: type[mtf.MeshImpl]) -> type[Recorder]:
    """Returns a class of meshes that do what those of an engine do, and note what they send.

    Args:
      engine: a mesh implementation, such as `SharingPlacement` or Mesh TensorFlow's `SimdMeshImpl`.
        What one with a transport of its own, such as `CollectiveMesh`, casts tensors to on the way
        is not seen.

    Returns:
      A subclass with the same arguments, and with the attribute `records`.
    """
    return type(f"Recorded{engine.__name__}", (Recorder, engine), {})


def run_by(records: Iterable[Record], roots: Iterable[tf.Tensor | tf.Operation]) -> list[Record]:
    """Returns the records of those collectives that run when something is run.

    Mesh TensorFlow lowers whatever is in its graph; TensorFlow runs what is needed.

    Args:
      records: records of the graph of the roots.
      roots: what a session, or a TPU, is to run.
    """
    names = {operation.name for operation in needed(roots)}
    return [record for record in records if record.result.partition(":")[0] in names]


def needed(roots: Iterable[tf.Tensor | tf.Operation]) -> set[tf.Operation]:
    """Returns all operations of TensorFlow's graph that run when something is run."""
    waiting = [root if isinstance(root, tf.Operation) else root.op for root in roots]
    found = set(waiting)
    while waiting:
        operation = waiting.pop()
        for each in [*operation.control_inputs, *(tensor.op for tensor in operation.inputs)]:
            if each not in found:
                found.add(each)
                waiting.append(each)
    return found


def _sent(before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Returns what is put into a TPU's collective, which may stand between casts; else `before`."""
    operation = after.op
    while operation.type == "Cast":
        operation = operation.inputs[0].op
    return operation.inputs[0] if operation.type in _OF_TPUS else before
