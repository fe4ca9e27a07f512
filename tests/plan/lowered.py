"""Records what the real lowering of a graph multiplies and sends, operation by operation."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from hmoe.compat.stack import mtf, tf
from hmoe.layer import parts
from hmoe.lowering.lower import lower, make_mesh
from hmoe.plan import counting
from hmoe.plan.costs import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    FORWARD,
    OTHER,
    Exchange,
    Place,
    StepCosts,
    bytes_sent,
    merged,
)

_KINDS = {"alltoall": ALL_TO_ALL, "allreduce": ALL_REDUCE, "allconcat": ALL_GATHER}


# The part of what a layer does beside routing, moving tokens and experts.
REST = "rest of the layer"


class Step:
    """A forward and a backward pass of a layer, whose call is marked with the part `REST`.

    Attributes:
      graph: the graph of named dimensions.
      exported: the tensors that somebody reads.
      num_microbatches: how often loops of the graph run.
      needed: the operations that these need; TensorFlow leaves out all others when it runs.
      in_loops: those of them that are in loops.
    """

    def __init__(self, graph: mtf.Graph, exported: list[mtf.Tensor], num_microbatches: int = 1):
        self.graph = graph
        self.exported = exported
        self.num_microbatches = num_microbatches
        self.needed: set[mtf.Operation] = set(graph.all_variables)
        self.in_loops = {
            each
            for loop in graph.operations
            if isinstance(loop, mtf.ops.WhileLoopOperation)
            for each in loop._body_ops
        }
        everything = [*graph.operations, *self.in_loops]
        self._by_name = {operation.name: operation for operation in everything}
        waiting = [tensor.operation for tensor in exported]
        while waiting:
            operation = waiting.pop()
            if operation not in self.needed:
                self.needed.add(operation)
                read = list(operation.inputs)
                if isinstance(operation, mtf.ops.WhileLoopOperation):
                    read += operation._body_outputs
                waiting += [tensor.operation for tensor in read]

    def place(self, operation: mtf.Operation) -> Place | None:
        """Returns the place of an operation; a gradient is where that is whose gradient it is.

        It is None for what does not belong to the layer.
        """
        # `mtf.gradients` names what it adds after the operation.
        source, *gradients = operation.name.split("/gradients/")
        part = parts.part_of(self._by_name[source] if gradients else operation)
        if part is None:
            return None
        return Place(
            OTHER if part.name == REST else part.name,
            part.level,
            BACKWARD if gradients else FORWARD,
        )

    def source(self, tensor: mtf.Tensor) -> mtf.Operation:
        """Returns the operation that makes a tensor, in a loop if one returns it."""
        operation = tensor.operation
        if isinstance(operation, mtf.ops.WhileLoopOperation):
            return operation._body_outputs[operation.outputs.index(tensor)].operation
        return operation


class Recorded(NamedTuple):
    """What a lowering did.

    Attributes:
      multiplications: of einsums of two tensors or more on one device, by operation.
      exchanges: the operation that each collective belongs to, its kind, axes and bytes.
    """

    multiplications: list[tuple[mtf.Operation, int]]
    exchanges: list[tuple[mtf.Operation, str, tuple[str, ...], int]]


def lowered(
    step: Step, some: mtf.Tensor, mesh_shape: str, layout: str, *, on_tpu: bool = False
) -> Recorded:
    """Lowers what a step needs into TensorFlow's default graph.

    Args:
      step: the step.
      some: a tensor of it.
      mesh_shape: axes of the mesh.
      layout: layout rules.
      on_tpu: whether the mesh is of TPU cores, made up without a TPU, and not a simulated one.
    """
    shape, rules = mtf.convert_to_shape(mesh_shape), mtf.convert_to_layout_rules(layout)
    if on_tpu:
        from tests import tpu_slices  # needs a part of TensorFlow that not each has

        cores = tpu_slices.assignment(8)
        order = list(range(shape.size))
        mesh_impl = mtf.simd_mesh_impl.SimdMeshImpl(
            shape, rules, device_assignment=cores, logical_to_physical=order
        )
    else:
        mesh_impl = make_mesh(shape, rules, [""] * shape.size)
    recorder = _Recorder(mesh_impl, step)
    with recorder.recording():
        lowering = lower(some, mesh_impl, autostack=False)
        for tensor in step.exported:
            # What has waited for the end of a loop belongs to an operation in it.
            recorder.current = step.source(tensor)
            recorder.is_in_loop = False
            lowering.tensors[tensor].to_laid_out_tensor()
    return recorder.found


def costs_of(step: Step, found: Recorded) -> tuple[dict[Place, int], tuple[Exchange, ...]]:
    """Adds up what was recorded of the layer, by place."""
    multiplications: collections.Counter[Place] = collections.Counter()
    for operation, number in found.multiplications:
        if (place := step.place(operation)) is not None:
            multiplications[place] += number
    exchanges = [
        Exchange(kind, axes, place, size, 1)
        for operation, kind, axes, size in found.exchanges
        if (place := step.place(operation)) is not None
    ]
    return dict(multiplications), merged(exchanges)


def counted(step: Step, mesh_shape: str, layout: str, *, on_tpu: bool = False) -> StepCosts:
    """Counts the costs of the layer by a mesh of shapes, without lowering anything."""
    found = counting.count(
        counting.Step(step.graph, step.exported, iterations=step.num_microbatches),
        mtf.convert_to_shape(mesh_shape),
        mtf.convert_to_layout_rules(layout),
        on_tpus=on_tpu,
    ).costs
    multiplications = {
        _place_of_layer(place): number
        for place, number in found.multiplications.items()
        if place.part != OTHER  # what does not belong to the layer
    }
    exchanges = [
        dataclasses.replace(each, place=_place_of_layer(each.place))
        for each in found.exchanges
        if each.place.part != OTHER
    ]
    return StepCosts(multiplications, merged(exchanges))


def _place_of_layer(place: Place) -> Place:
    return place._replace(part=OTHER) if place.part == REST else place


class _Recorder:
    """Records what a mesh does.

    Attributes:
      current: the operation that is lowered.
      is_in_loop: whether it is run in each microbatch.
    """

    def __init__(self, mesh_impl: mtf.MeshImpl, step: Step):
        self._mesh = mesh_impl
        self._step = step
        self.current: mtf.Operation | None = None
        self.is_in_loop = False
        # The operation that made each laid out tensor, which is kept so that its id stays its own.
        self._makers: dict[int, tuple[Any, mtf.Operation | None]] = {}
        # What a TPU is given to send, which may be of another type than the slice.
        self._sent: tf.Tensor | None = None
        self.found = Recorded([], [])

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within it, the operations that the step needs are lowered, and recorded."""
        step, mesh = self._step, self._mesh
        operations = [each for each in step.graph.operations if each in step.needed]
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(step.graph, "_operations", operations))
            for loop in operations:
                if isinstance(loop, mtf.ops.WhileLoopOperation):
                    body = [each for each in loop._body_ops if each in step.needed]
                    stack.enter_context(mock.patch.object(loop, "_body_ops", body))
            for operation in step.needed:
                stack.enter_context(
                    mock.patch.object(operation, "lower", self._lowering(operation))
                )
            add = mtf.Lowering.add_counter
            stack.enter_context(mock.patch.object(mtf.Lowering, "add_counter", self._counting(add)))
            stack.enter_context(mock.patch.object(mesh, "slicewise", self._making(mesh.slicewise)))
            is_simd = isinstance(mesh, mtf.simd_mesh_impl.SimdMeshImpl)
            for method, kind in _KINDS.items():
                if is_simd and kind == ALL_GATHER:
                    continue  # which is done by a sum
                recorded = self._sending(kind, getattr(mesh, method))
                stack.enter_context(mock.patch.object(mesh, method, recorded))
            tpu_ops = mtf.simd_mesh_impl.tpu_ops
            for name in ("all_to_all", "cross_replica_sum"):
                noted = self._noting(getattr(tpu_ops, name))
                stack.enter_context(mock.patch.object(tpu_ops, name, noted))
            yield

    @property
    def _times(self) -> int:
        return self._step.num_microbatches if self.is_in_loop else 1

    def _lowering(self, operation: mtf.Operation) -> Callable:
        lower = operation.lower

        def run(lowering: mtf.Lowering) -> None:
            before = self.current, self.is_in_loop
            self.current, self.is_in_loop = operation, operation in self._step.in_loops
            lower(lowering)
            self.current, self.is_in_loop = before

        return run

    def _counting(self, add: Callable) -> Callable:
        def run(lowering: mtf.Lowering, key: str, value: int) -> None:
            add(lowering, key, value)
            operation = self.current
            is_alone = isinstance(operation, mtf.ops.EinsumOperation) and len(operation.inputs) < 2
            if key == "einsum" and not is_alone:
                for _ in range(self._times):
                    self.found.multiplications.append((operation, value // self._mesh.size))

        return run

    def _making(self, slicewise: Callable) -> Callable:
        def run(fn: Callable, *inputs: Any) -> Any:
            result = slicewise(fn, *inputs)
            for each in result if isinstance(result, tuple) else [result]:
                self._makers[id(each)] = (each, self.current)
            return result

        return run

    def _noting(self, operation: Callable) -> Callable:
        def run(x: tf.Tensor, *more: Any, **named: Any) -> tf.Tensor:
            self._sent = x
            return operation(x, *more, **named)

        return run

    def _sending(self, kind: str, method: Callable) -> Callable:
        def run(x: Any, axes: int | list[int], *more: Any) -> Any:
            x = x.to_laid_out_tensor()
            numbers = axes if isinstance(axes, Iterable) else [axes]
            used = sorted(each for each in numbers if self._mesh.shape[each].size > 1)
            self._sent = x.all_slices[0]
            maker = self._makers.get(id(x), (None, None))[1]
            operation = (maker if kind == ALL_REDUCE else None) or self.current
            result = method(x, axes, *more)
            if used:
                size = math.prod(self._sent.shape.as_list()) * self._sent.dtype.size
                group = math.prod(self._mesh.shape[each].size for each in used)
                names = tuple(self._mesh.shape[each].name for each in used)
                sent = (operation, kind, names, bytes_sent(kind, size, group))
                self.found.exchanges.extend([sent] * self._times)
            return result

        return run
