"""Counts what a named-dimension graph costs on a mesh, without a TensorFlow graph of it."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from hmoe.compat.stack import mtf, tf
from hmoe.layer import parts
from hmoe.layer.parts import OTHER
from hmoe.mesh.layout import check_dimensions, dimensions
from hmoe.plan.costs import (
    BACKWARD,
    FORWARD,
    UPDATE,
    Exchange,
    Memory,
    Place,
    StepCosts,
    merged,
)
from hmoe.plan.counting_mesh import CountingMesh, CountingMeshOfTPUs, Slice

# How `mtf.gradients` calls what it adds for an operation.
_GRADIENTS = "/gradients/"

# What two operations that cost the same have in common: their kind, the dimensions that may be
# split, and those of inputs and outputs.
Signature: TypeAlias = tuple[object, ...]


class Step:
    """A training step as a named-dimension graph, prepared to be counted on any mesh.

    Args:
      graph: its operations: the forward pass, what `mtf.gradients` has added, then the updates.
      exported: tensors that leave the mesh, such as the loss.
      gradients: the gradients of the trained weights.
      iterations: how often loops of the graph run: the number of microbatches.

    Attributes:
      graph: the graph.
      exported: tensors that leave the mesh.
      gradients: the gradients of the trained weights.
      iterations: how often loops of the graph run.
      needed: the operations that exported tensors and assignments need.
      dimensions: all dimensions.
    """

    def __init__(
        self,
        graph: mtf.Graph,
        exported: Sequence[mtf.Tensor] = (),
        gradients: Sequence[mtf.Tensor] = (),
        iterations: int = 1,
    ):
        self.graph = graph
        self.exported = exported
        self.gradients = gradients
        self.iterations = iterations
        self.needed = needed(graph, exported)
        self.dimensions = dimensions(graph.operations)
        operations = list(with_loops(graph.operations))
        self._by_name = {operation.name: operation for operation in operations}
        backward = [n for n, each in enumerate(operations) if _GRADIENTS in each.name]
        last = backward[-1] if backward else len(operations) - 1
        # What comes after the backward pass updates the weights.
        self._updates = set(operations[last + 1 :])
        prefix = graph.captured_variable_scope.name
        self._prefix = f"{prefix}/" if prefix else ""
        self._places: dict[mtf.Operation, Place] = {}
        self._signatures: dict[mtf.Operation, Signature] = {}

    def signature(self, operation: mtf.Operation) -> Signature:
        """Returns what the cost of an operation of `_ALIKE` depends on beside the mesh."""
        if operation not in self._signatures:
            self._signatures[operation] = (
                type(operation),
                getattr(operation, "_reduction_fn_string", ""),
                operation.splittable_dims,
                *(tuple(each.shape.dims) for each in operation.inputs),
                "to",
                *(tuple(each.shape.dims) for each in operation.outputs),
            )
        return self._signatures[operation]

    @functools.cached_property
    def all_operations(self) -> set[mtf.Operation]:
        """All operations, those in loops too."""
        return set(with_loops(self.graph.operations))

    @functools.cached_property
    def kept(self) -> list[mtf.Tensor]:
        """The tensors of the forward pass that the backward pass reads."""
        found = {
            tensor
            for operation in self.needed
            if self.place(operation).phase == BACKWARD
            for tensor in operation.inputs
            if not isinstance(tensor.operation, mtf.Variable)
            and self.place(tensor.operation).phase == FORWARD
        }
        return list(found)

    def place(self, operation: mtf.Operation) -> Place:
        """Returns the place of an operation; a gradient is where that is whose gradient it is."""
        if operation not in self._places:
            self._places[operation] = self._find_place(operation)
        return self._places[operation]

    def _find_place(self, operation: mtf.Operation) -> Place:
        if operation in self._updates:
            return Place(OTHER, "", UPDATE)
        if _GRADIENTS not in operation.name:
            return self._of_part(operation, FORWARD)
        part = parts.part_of(operation)  # of what is computed anew in the backward pass
        source = operation if part else self._source(operation)
        return self._of_part(source, BACKWARD)

    def is_of_update(self, operation: mtf.Operation) -> bool:
        """Returns whether an operation comes after the backward pass."""
        return operation in self._updates

    def _source(self, operation: mtf.Operation) -> mtf.Operation | None:
        name = operation.name.removeprefix(self._prefix)
        return self._by_name.get(name.split(_GRADIENTS)[0])

    @staticmethod
    def _of_part(operation: mtf.Operation | None, phase: str) -> Place:
        part = None if operation is None else parts.part_of(operation)
        return Place(part.name, part.level, phase) if part else Place(OTHER, "", phase)


def with_loops(operations: Iterable[mtf.Operation]) -> Iterator[mtf.Operation]:
    """Yields operations, and before a loop those in its body."""
    for operation in operations:
        if isinstance(operation, mtf.ops.WhileLoopOperation):
            yield from with_loops(operation._body_ops)
        yield operation


def needed(graph: mtf.Graph, exported: Iterable[mtf.Tensor]) -> set[mtf.Operation]:
    """Returns the operations that exported tensors and assignments need, variables included."""
    found: set[mtf.Operation] = set(graph.all_variables)
    waiting = [each for each in graph.operations if isinstance(each, mtf.ops.Assign)]
    waiting += [tensor.operation for tensor in exported]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += _sources(operation)
    return found


def _sources(operation: mtf.Operation) -> list[mtf.Operation]:
    """Returns the operations that another one needs."""
    found = [tensor.operation for tensor in operation.inputs]
    if isinstance(operation, mtf.ops.WhileLoopOperation):
        found += [tensor.operation for tensor in operation._body_outputs]
    elif isinstance(operation, mtf.ops.CustomGradientOperation):
        found += [tensor.operation for tensor in operation._fn_outputs]
    elif isinstance(operation, mtf.ops.Depend):
        found += [getattr(each, "operation", each) for each in operation._dependencies]
    return found


class Counted(NamedTuple):
    """What a graph costs.

    Attributes:
      costs: what a device does and sends.
      memory: what it holds.
    """

    costs: StepCosts
    memory: Memory


def count(
    step: Step,
    mesh_shape: mtf.Shape,
    layout: mtf.LayoutRules,
    *,
    on_tpus: bool = False,
    unused: bool = False,
) -> Counted:
    """Counts the costs of a training step.

    Args:
      step: the step.
      mesh_shape: axes of the mesh.
      layout: which dimension is split over which axis.
      on_tpus: whether to count what TPUs send.
      unused: whether to count also what neither an exported tensor nor an assignment needs. It is
        lowered, and TensorFlow leaves it out when it runs: the gradient of one-hot tensors, say.

    Returns:
      The costs of one device.

    Raises:
      ValueError: the layout does not suit the graph.
    """
    tally = _Tally(step)
    mesh = (CountingMeshOfTPUs if on_tpus else CountingMesh)(mesh_shape, layout, tally.send)
    check_dimensions(step.dimensions, mesh_shape, layout)
    lowering = _Lowering(step, mesh, tally, step.all_operations if unused else step.needed)
    lowering.run(step.graph.operations)
    for tensor in step.exported:
        lowering.export_to_tf_tensor(tensor)
    lowering.tensors.clear()  # sums that wait know the lowering, which would keep itself alive
    costs = StepCosts(dict(tally.multiplications), merged(tally.exchanges))
    return Counted(costs, _memory(mesh, step))


class _Tally:
    """Adds up what is counted.

    Attributes:
      multiplications: by place.
      exchanges: in the order of their operations.
      times: how often what is counted now is done in a step.
    """

    def __init__(self, step: Step):
        self._step = step
        self.multiplications: collections.Counter[Place] = collections.Counter()
        self.exchanges: list[Exchange] = []
        self.times = 1

    def multiply(self, operation: mtf.Operation, number: int) -> None:
        """Adds the multiplications of an operation on one device."""
        self.multiplications[self._step.place(operation)] += number * self.times

    def send(self, kind: str, axes: tuple[str, ...], size: int, operation: mtf.Operation) -> None:
        """Adds a collective, with the bytes that one device sends."""
        place = self._step.place(operation)
        self.exchanges.append(Exchange(kind, axes, place, size * self.times, self.times))


class _Lowered(NamedTuple):
    """What became of an operation, for others that are like it.

    Attributes:
      multiplications: of one device.
      slice_shapes: shapes of the slices of its outputs.
      axes: the axes of the mesh over which they wait to be summed.
    """

    multiplications: int
    slice_shapes: list[list[int]]
    axes: list[int]


class _Lowering:
    """What operations take for Mesh TensorFlow's lowering when they lower themselves.

    Attributes:
      tensors: the slices of each tensor.
      operations: what stands for operations without outputs.
      variables: the slices of each variable.
    """

    def __init__(
        self, step: Step, mesh: CountingMesh, tally: _Tally, operations: set[mtf.Operation]
    ):
        self.tensors: dict[mtf.Tensor, Any] = {}
        self.operations: dict[mtf.Operation, tf.Operation] = {}
        self.variables: dict[mtf.Variable, Any] = {}
        self._mesh = mesh
        self._tally = tally
        self._step = step
        self._known: dict[Signature, _Lowered] = {}
        self._wanted = operations
        self._current: mtf.Operation | None = None
        # Multiplications of the operation that was counted last.
        self._multiplied = 0
        self._nothing = tf.no_op()

    def run(self, operations: Iterable[mtf.Operation]) -> None:
        """Lowers operations."""
        for operation in operations:
            if operation not in self._wanted:
                continue
            self._current = operation
            with self._mesh.lowering(operation):
                self._lower(operation)

    def _lower(self, operation: mtf.Operation) -> None:
        kind = type(operation)
        if kind not in _functions:
            _functions[kind] = _function_for(kind)
        _functions[kind](self, operation)

    def by_itself(self, operation: mtf.Operation) -> None:
        """Lets an operation lower itself."""
        operation.lower(self)

    def mesh_impl(self, mesh: object) -> CountingMesh:
        """Returns the mesh."""
        del mesh
        return self._mesh

    def set_tensor_lowering(self, tensor: mtf.Tensor, laid_out: Any) -> None:
        """Takes the slices of a tensor, which have its shape and type by definition."""
        if isinstance(laid_out, Slice):
            shape = self._mesh.slice_shape(tensor.shape)
            laid_out = Slice(shape, tensor.dtype, laid_out.operation)
        self.tensors[tensor] = laid_out

    def laid_out_size(self, tensor: mtf.Tensor) -> int:
        """Returns the elements of a tensor's slices of all devices."""
        return self._mesh.laid_out_size(tensor.shape)

    def add_counter(self, key: str, value: int) -> None:
        """Takes the multiplications of all devices; the mesh notes what is sent by itself."""
        operation = self._current
        assert operation is not None
        # With one input it is a sum or a transpose.
        is_alone = isinstance(operation, mtf.ops.EinsumOperation) and len(operation.inputs) < 2
        if (key == "einsum" or _is_of_convolution(key)) and not is_alone:
            self._multiplied = value // self._mesh.size
            self._tally.multiply(operation, self._multiplied)

    def export_to_tf_tensor(self, x: mtf.Tensor) -> Slice:
        """Reads a tensor, for the host."""
        return self._mesh.export_to_tf_tensor(x, self.tensors[x])

    def read(self, tensors: Iterable[mtf.Tensor]) -> None:
        """Reads tensors, which makes sums over devices that waited for it."""
        for tensor in tensors:
            self.tensors[tensor].to_laid_out_tensor()

    def local(self, operation: mtf.Operation) -> None:
        """Lowers an operation in which no device sends anything."""
        self.read(operation.inputs)
        for output in operation.outputs:
            shape = self._mesh.slice_shape(output.shape)
            self.tensors[output] = Slice(shape, output.dtype, operation)

    def assign(self, operation: mtf.Operation) -> None:
        """Lowers an assignment."""
        self.read(operation.inputs)
        self.operations[operation] = self._nothing

    def alike(self, operation: mtf.Operation) -> None:
        """Lowers an operation of which a model has many that are alike."""
        self.read(operation.inputs)
        signature = self._step.signature(operation)
        found = self._known.get(signature)
        if found is None:
            self._lower_first(operation, signature)
            return
        if found.multiplications:
            self._tally.multiply(operation, found.multiplications)
        for output, slice_shape in zip(operation.outputs, found.slice_shapes):
            slices = Slice(slice_shape, output.dtype, operation)
            self.tensors[output] = (
                mtf.ops.LazyAllreduceSum(self._mesh, slices, found.axes) if found.axes else slices
            )

    def _lower_first(self, operation: mtf.Operation, signature: Signature) -> None:
        """Lowers the first operation of a signature; one that sends anything stays the first."""
        num_sent, self._multiplied = len(self._tally.exchanges), 0
        operation.lower(self)
        if len(self._tally.exchanges) == num_sent:
            outputs = [self._left_open(each) for each in operation.outputs]
            shapes = [slices.slice_shape for slices, _ in outputs]
            self._known[signature] = _Lowered(self._multiplied, shapes, outputs[0][1])

    def loop(self, operation: mtf.Operation) -> None:
        """Lowers a loop: its body once, for as many times as it runs."""
        self.read(operation.inputs)
        for outer, inner in zip(operation.inputs, operation._body_inputs):
            self.set_tensor_lowering(inner, self.tensors[outer].to_laid_out_tensor())
        before = self._tally.times
        self._tally.times *= self._step.iterations
        self.run(operation._body_ops)
        results = [self._left_open(each) for each in operation._body_outputs]
        self._tally.times = before
        for output, (slices, axes) in zip(operation.outputs, results):
            # What waits to be summed over devices is first summed over the iterations.
            self.tensors[output] = (
                mtf.ops.LazyAllreduceSum(self._mesh, slices, axes) if axes else slices
            )

    def _left_open(self, tensor: mtf.Tensor) -> tuple[Slice, list[int]]:
        """Returns the slices of a tensor, and the axes over which they still wait to be summed."""
        found = self.tensors[tensor]
        if isinstance(found, mtf.ops.LazyAllreduceSum):
            return found.laid_out_input, found.mesh_axes
        return found.to_laid_out_tensor(), []


# Operations that read the sums of all their inputs, with what only `Step.signature` tells apart.
_ALIKE = (
    mtf.ops.EinsumOperation,
    mtf.ops.ReduceOperation,
    mtf.ops.SlicewiseOperation,
    mtf.ops.ScalarMultiplyOperation,
    mtf.ops.ScalarAddOperation,
    mtf.ops.MinMaxOperation,
)

# Operations that lower themselves by TensorFlow's, which there are none of here.
_OTHERWISE: Mapping[type, Callable[[_Lowering, mtf.Operation], None]] = {
    mtf.ops.GenericGradOperation: _Lowering.local,
    mtf.ops.RangeOperation: _Lowering.local,
    mtf.ops.ImportOperation: _Lowering.local,
    mtf.ops.Depend: _Lowering.local,
    mtf.ops.ScalarSummaryOperation: _Lowering.local,
    mtf.ops.Assign: _Lowering.assign,
    mtf.ops.WhileLoopOperation: _Lowering.loop,
}


# By the class of an operation, what lowers it.
_functions: dict[type, Callable[[_Lowering, mtf.Operation], None]] = {}


def _function_for(kind: type) -> Callable[[_Lowering, mtf.Operation], None]:
    """Returns what lowers operations of a class; of a class derived from `_ALIKE`, itself."""
    if kind in _ALIKE:
        return _Lowering.alike
    for other, function in _OTHERWISE.items():
        if issubclass(kind, other):
            return function
    return _Lowering.by_itself


def _is_of_convolution(key: str) -> bool:
    return key.startswith("conv") and "_unique" not in key


def _memory(mesh: CountingMesh, step: Step) -> Memory:
    def slices(shape: mtf.Shape, dtype: tf.DType) -> int:
        return math.prod(mesh.slice_shape(shape)) * dtype.size

    sizes = {each: slices(each.shape, each.slice_dtype) for each in step.graph.all_variables}
    optimizer = sum(size for each, size in sizes.items() if step.is_of_update(each))
    return Memory(
        parameters=sum(sizes.values()) - optimizer,
        gradients=sum(slices(each.shape, each.dtype) for each in step.gradients),
        optimizer=optimizer,
        activations=sum(slices(each.shape, each.dtype) for each in step.kept),
    )
