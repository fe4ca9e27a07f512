"""Records what the real lowering of a graph multiplies and sends, operation by operation."""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from hmoe.compat.stack import mtf
from hmoe.layer import parts
from hmoe.lowering.lower import lower, make_mesh
from hmoe.plan.costs import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    FORWARD,
    OTHER,
    Exchange,
    Place,
    bytes_sent,
    merged,
)

_KINDS = {"alltoall": ALL_TO_ALL, "allreduce": ALL_REDUCE, "allconcat": ALL_GATHER}


class Step:
    """A forward and a backward pass.

    Attributes:
      graph: the graph of named dimensions.
      exported: the tensors that somebody reads.
      needed: the operations that these need; TensorFlow leaves out all others when it runs.
    """

    def __init__(self, graph: mtf.Graph, exported: list[mtf.Tensor]):
        self.graph = graph
        self.exported = exported
        self.needed: set[mtf.Operation] = set(graph.all_variables)
        self._by_name = {operation.name: operation for operation in graph.operations}
        waiting = [tensor.operation for tensor in exported]
        while waiting:
            operation = waiting.pop()
            if operation not in self.needed:
                self.needed.add(operation)
                waiting += [tensor.operation for tensor in operation.inputs]

    def place(self, operation: mtf.Operation) -> Place:
        """Returns the place of an operation; a gradient is where that is whose gradient it is."""
        # `mtf.gradients` names what it adds after the operation.
        source, *gradients = operation.name.split("/gradients/")
        part = parts.part_of(self._by_name[source] if gradients else operation)
        return Place(*(part or (OTHER, "")), BACKWARD if gradients else FORWARD)


class Recorded(NamedTuple):
    """What a lowering did.

    Attributes:
      multiplications: of einsums of two tensors or more on one device, by operation.
      exchanges: the operation that each collective belongs to, its kind, axes and bytes.
    """

    multiplications: list[tuple[mtf.Operation, int]]
    exchanges: list[tuple[mtf.Operation, str, tuple[str, ...], int]]


def lowered(step: Step, some: mtf.Tensor, mesh_shape: str, layout: str) -> Recorded:
    """Lowers what a step needs into TensorFlow's default graph, on a simulated mesh.

    Args:
      step: the step.
      some: a tensor of it.
      mesh_shape: axes of the mesh.
      layout: layout rules.
    """
    shape = mtf.convert_to_shape(mesh_shape)
    mesh_impl = make_mesh(shape, mtf.convert_to_layout_rules(layout), [""] * shape.size)
    recorder = _Recorder(mesh_impl)
    with recorder.recording(step):
        lowering = lower(some, mesh_impl, autostack=False)
        for tensor in step.exported:
            lowering.tensors[tensor].to_laid_out_tensor()
    return recorder.found


def costs_of(step: Step, found: Recorded) -> tuple[dict[Place, int], tuple[Exchange, ...]]:
    """Adds up what was recorded, by place."""
    multiplications: collections.Counter[Place] = collections.Counter()
    for operation, number in found.multiplications:
        multiplications[step.place(operation)] += number
    exchanges = [
        Exchange(kind, axes, step.place(operation), size, 1)
        for operation, kind, axes, size in found.exchanges
    ]
    return dict(multiplications), merged(exchanges)


class _Recorder:
    def __init__(self, mesh_impl: mtf.MeshImpl):
        self._mesh = mesh_impl
        self._current: mtf.Operation | None = None
        # The operation that made each laid out tensor, which is kept so that its id stays its own.
        self._makers: dict[int, tuple[Any, mtf.Operation | None]] = {}
        self.found = Recorded([], [])

    @contextlib.contextmanager
    def recording(self, step: Step) -> Iterator[None]:
        """Within it, the operations that a step needs are lowered, and recorded."""
        graph, mesh = step.graph, self._mesh
        operations = [each for each in graph.operations if each in step.needed]
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(graph, "_operations", operations))
            for operation in operations:
                stack.enter_context(
                    mock.patch.object(operation, "lower", self._lowering(operation))
                )
            add = mtf.Lowering.add_counter
            stack.enter_context(mock.patch.object(mtf.Lowering, "add_counter", self._counting(add)))
            stack.enter_context(mock.patch.object(mesh, "slicewise", self._making(mesh.slicewise)))
            for method, kind in _KINDS.items():
                recorded = self._sending(kind, getattr(mesh, method))
                stack.enter_context(mock.patch.object(mesh, method, recorded))
            yield

    def _lowering(self, operation: mtf.Operation) -> Callable:
        lower = operation.lower

        def run(lowering: mtf.Lowering) -> None:
            self._current = operation
            lower(lowering)
            self._current = None

        return run

    def _counting(self, add: Callable) -> Callable:
        def run(lowering: mtf.Lowering, key: str, value: int) -> None:
            add(lowering, key, value)
            operation = self._current
            is_alone = isinstance(operation, mtf.ops.EinsumOperation) and len(operation.inputs) < 2
            if key == "einsum" and not is_alone:
                self.found.multiplications.append((operation, value // self._mesh.size))

        return run

    def _making(self, slicewise: Callable) -> Callable:
        def run(fn: Callable, *inputs: Any) -> Any:
            result = slicewise(fn, *inputs)
            for each in result if isinstance(result, tuple) else [result]:
                self._makers[id(each)] = (each, self._current)
            return result

        return run

    def _sending(self, kind: str, method: Callable) -> Callable:
        def run(x: Any, axes: int | list[int], *more: Any) -> Any:
            x = x.to_laid_out_tensor()
            numbers = axes if isinstance(axes, Iterable) else [axes]
            used = sorted(each for each in numbers if self._mesh.shape[each].size > 1)
            piece = x.all_slices[0]
            size = math.prod(piece.shape.as_list()) * piece.dtype.size
            group = math.prod(self._mesh.shape[each].size for each in used)
            if used:
                maker = self._makers.get(id(x), (None, None))[1]
                operation = (maker if kind == ALL_REDUCE else None) or self._current
                names = tuple(self._mesh.shape[each].name for each in used)
                self.found.exchanges.append((operation, kind, names, bytes_sent(kind, size, group)))
            return method(x, axes, *more)

        return run
