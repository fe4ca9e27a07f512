"""A mesh on shapes: it knows the slice of each tensor, notes what devices send, computes nothing.

Mesh TensorFlow's operations lower themselves onto it as onto any other mesh, so what is counted is
what they do.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from hmoe.compat.stack import mtf, tf
from hmoe.dispatch.operations import LocalOperation
from hmoe.mesh.randomness import StatelessUniformOperation
from hmoe.plan.costs import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    SHIFT,
    TPU_BFLOAT16_GROUP,
    bytes_sent,
)

# A slice, or a sum over devices that is made when it is read.
LaidOut: TypeAlias = Any
# Called with the kind of a collective, the names of its axes, the bytes that a device sends in it,
# and the operation that it belongs to.
Note: TypeAlias = Callable[[str, tuple[str, ...], int, mtf.Operation], None]

# Operations that apply functions to slices which return their outputs, as far as what they return
# is sent at all. Functions of others are called on tensors of their own to see what they return.
_RETURNING_OUTPUTS = (
    mtf.ops.SlicewiseOperation,
    mtf.ops.ScalarMultiplyOperation,
    mtf.ops.ScalarAddOperation,
    mtf.ops.BinaryOpWithBroadcasting,
    mtf.ops.ReduceOperation,
    mtf.ops.ConcatOperation,
    mtf.ops.SplitOperation,
    mtf.ops.StackOperation,
    mtf.ops.UnstackOperation,
    mtf.ops.SliceOperation,
    mtf.ops.PadOperation,
    mtf.ops.OneHotOperation,
    mtf.ops.Variable,
    mtf.ops.ReadVariable,
    mtf.ops.Constant,
    mtf.ops.ReshapeOperation,
    LocalOperation,
    StatelessUniformOperation,
)
# Those of them whose functions return a tuple even of one output.
_RETURNING_TUPLES = (mtf.ops.SplitOperation, mtf.ops.UnstackOperation)


class Slice:
    """The slice that each device has of a tensor, without its values.

    Attributes:
      slice_shape: its shape.
      dtype: its type.
      operation: the operation that made it.
    """

    def __init__(self, slice_shape: Sequence[int], dtype: tf.DType, operation: mtf.Operation):
        self.slice_shape = list(slice_shape)
        self.dtype = dtype
        self.operation = operation

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.slice_shape) * self.dtype.size

    def to_laid_out_tensor(self) -> Slice:
        """Returns the slice itself."""
        return self

    def resized(self, axis: int, numerator: int, denominator: int = 1) -> Slice:
        """Returns a slice with another size along a dimension."""
        shape = list(self.slice_shape)
        shape[axis] = shape[axis] * numerator // denominator
        return Slice(shape, self.dtype, self.operation)

    def cast(self, dtype: tf.DType) -> Slice:
        """Returns a slice of another type."""
        return Slice(self.slice_shape, dtype, self.operation)


class SliceOfVariable:
    """The slice that each device has of a variable."""

    def __init__(self, variable: mtf.Variable, mesh_impl: CountingMesh):
        shape = mesh_impl.slice_shape(variable.shape)
        self.laid_out_tensor = Slice(shape, variable.slice_dtype, variable)


class CountingMesh(mtf.MeshImpl):
    """The mesh.

    Args:
      shape: axes of the mesh.
      layout: which dimension is split over which axis.
      note: is told of each collective in which a device sends anything.
    """

    LaidOutTensor = Slice
    LaidOutVariable = SliceOfVariable
    # How tokens are moved depends on it.
    is_of_tpus = False

    def __init__(self, shape: mtf.Shape, layout: mtf.LayoutRules, note: Note):
        super().__init__(shape, layout)
        self._note = note
        self._operation: mtf.Operation | None = None
        # By the dimensions of shapes, for which they are asked again and again.
        self._layouts: dict[tuple[mtf.Dimension, ...], mtf.TensorLayout] = {}
        self._slice_shapes: dict[tuple[mtf.Dimension, ...], list[int]] = {}

    @contextlib.contextmanager
    def lowering(self, operation: mtf.Operation) -> Iterator[None]:
        """Within it, an operation is lowered."""
        before, self._operation = self._operation, operation
        yield
        self._operation = before

    def tensor_layout(self, arg: mtf.Tensor | mtf.Shape) -> mtf.TensorLayout:
        """Returns over which axes the dimensions of a tensor or shape are split."""
        shape = arg.shape if isinstance(arg, mtf.Tensor) else arg
        key = tuple(shape.dims)
        if key not in self._layouts:
            self._layouts[key] = super().tensor_layout(shape)
        return self._layouts[key]

    def slice_shape(self, tensor_shape: mtf.Shape) -> list[int]:
        """Returns the shape of the slices of a tensor.

        Raises:
          ValueError: an axis does not divide a dimension that is split over it.
        """
        key = tuple(tensor_shape.dims)
        if key not in self._slice_shapes:
            self._slice_shapes[key] = super().slice_shape(tensor_shape)
        return list(self._slice_shapes[key])

    def slicewise(self, fn: Callable, *inputs: LaidOut) -> Slice | tuple[Slice, ...]:
        """Returns the slices that a function of the operation makes."""
        inputs = mtf.convert_args_to_laid_out_tensors(inputs)
        operation = self._operation
        assert operation is not None
        if isinstance(operation, mtf.ops.EinsumOperation):
            return self._slice(_einsum_shape(operation), operation.outputs[0].dtype)
        if not isinstance(operation, _RETURNING_OUTPUTS):
            return self._traced(fn, inputs)
        found = [self._slice(each.shape, each.dtype) for each in operation.outputs]
        is_single = len(found) == 1 and not isinstance(operation, _RETURNING_TUPLES)
        return found[0] if is_single else tuple(found)

    def _slice(self, shape: mtf.Shape, dtype: tf.DType) -> Slice:
        return Slice(self.slice_shape(shape), dtype, self._operation)

    def _traced(self, fn: Callable, inputs: Sequence[Any]) -> Slice | tuple[Slice, ...]:
        """Calls a function in a graph of its own."""
        with tf.Graph().as_default():
            values = [
                tf.placeholder(x.dtype, x.slice_shape) if isinstance(x, Slice) else x
                for x in inputs
            ]
            result = fn(*values)
        found = tf.nest.map_structure(
            lambda x: Slice(x.shape.as_list(), x.dtype, self._operation), result
        )
        return tuple(found) if isinstance(result, (list, tuple)) else found

    def allreduce(self, x: LaidOut, mesh_axes: Sequence[int], reduction_fn_string: str) -> Slice:
        """Notes a reduction over the devices that differ along these axes alone.

        It belongs to the operation that made the parts, however late their sum is read.
        """
        del reduction_fn_string
        x = x.to_laid_out_tensor()
        return self._noted(ALL_REDUCE, x, mesh_axes, x.operation)

    def allconcat(self, x: LaidOut, mesh_axis: int, concat_axis: int) -> Slice:
        """Notes that all slices along an axis are concatenated."""
        x = self._noted(ALL_GATHER, x.to_laid_out_tensor(), [mesh_axis])
        return x.resized(concat_axis, self.shape[mesh_axis].size)

    def alltoall(self, x: LaidOut, mesh_axis: int, split_axis: int, concat_axis: int) -> Slice:
        """Notes that parts of slices are exchanged along an axis."""
        x = self._noted(ALL_TO_ALL, x.to_laid_out_tensor(), [mesh_axis])
        number = self.shape[mesh_axis].size
        return x.resized(concat_axis, number).resized(split_axis, 1, number)

    def receive(self, x: LaidOut, mesh_axis: int, source_pcoord: Sequence[int | None]) -> Slice:
        """Notes that slices move along an axis; the busiest device counts."""
        x = x.to_laid_out_tensor()
        moves = any(source not in (None, at) for at, source in enumerate(source_pcoord))
        return self._noted(SHIFT, x, [mesh_axis]) if moves else x

    def _noted(
        self,
        kind: str,
        x: Slice,
        mesh_axes: Sequence[int],
        operation: mtf.Operation | None = None,
    ) -> Slice:
        axes = sorted(axis for axis in mesh_axes if self.shape[axis].size > 1)
        group = math.prod(self.shape[axis].size for axis in axes)
        if group > 1:
            names = tuple(self.shape[axis].name for axis in axes)
            size = bytes_sent(kind, self.sent(kind, x, group).size, group)
            self._note(kind, names, size, operation or self._operation)
        return x

    def sent(self, kind: str, x: Slice, group: int) -> Slice:
        """Returns what is really sent of a tensor in a group of devices."""
        del kind, group
        return x

    def allsplit(
        self, x: LaidOut, mesh_axis: int, split_axis: int, which: LaidOut | None = None
    ) -> Slice:
        """Cuts slices along an axis, which sends nothing."""
        del which
        return x.to_laid_out_tensor().resized(split_axis, 1, self.shape[mesh_axis].size)

    def broadcast_impl(self, old_slices: LaidOut, old_shape: Any, new_shape: mtf.Shape) -> Slice:
        """Broadcasts, which sends nothing."""
        del old_shape
        x = old_slices.to_laid_out_tensor()
        return Slice(self.slice_shape(new_shape), x.dtype, self._operation)

    def random(self, shape: mtf.Shape, tf_fn: Callable, kwargs: dict[str, Any]) -> Slice:
        """Draws random numbers, which sends nothing."""
        del tf_fn
        return self._slice(shape, kwargs.get("dtype", tf.float32))

    def import_tf_tensor(self, x: mtf.Tensor, tf_x: tf.Tensor) -> Slice:
        """Cuts slices from a tensor that every device has."""
        del tf_x
        return self._slice(x.shape, x.dtype)

    def export_to_tf_tensor(self, x: mtf.Tensor, laid_out_x: LaidOut) -> Slice:
        """Reads the slices of a tensor, for the host."""
        del x
        return laid_out_x.to_laid_out_tensor()

    def laid_out_pnum(self) -> Slice:
        """Returns the number of a slice, in a slice."""
        return Slice([], tf.int32, self._operation)

    def laid_out_pcoord(self, mesh_axis: int) -> Slice:
        """Returns where a slice is along an axis, in a slice."""
        del mesh_axis
        return Slice([], tf.int32, self._operation)

    def Print(self, x: LaidOut, *unused: Any, **more: Any) -> LaidOut:  # noqa: N802 (upstream's)
        """Prints nothing."""
        del unused, more
        return x


class CountingMeshOfTPUs(CountingMesh):
    """The mesh as `SimdMeshImpl` implements it on the cores of TPUs."""

    is_of_tpus = True

    def allreduce(self, x: LaidOut, mesh_axes: Sequence[int], reduction_fn_string: str) -> Slice:
        """Notes a reduction; all but sums are made of the slices of all, axis by axis."""
        if reduction_fn_string == "SUM":
            return super().allreduce(x, mesh_axes, reduction_fn_string)
        for axis in mesh_axes:
            self._all(x.to_laid_out_tensor(), axis)
        return x.to_laid_out_tensor()

    def allconcat(self, x: LaidOut, mesh_axis: int, concat_axis: int) -> Slice:
        """Notes the sum of slices that are put among zeros, as which this is done."""
        x = x.to_laid_out_tensor()
        self._all(x, mesh_axis)
        return x.resized(concat_axis, self.shape[mesh_axis].size)

    def random(self, shape: mtf.Shape, tf_fn: Callable, kwargs: dict[str, Any]) -> Slice:
        """Notes that the devices which share a slice agree on its random numbers by a sum."""
        x = super().random(shape, tf_fn, kwargs)
        split = self.tensor_layout(shape).tensor_axis_to_mesh_axis
        return self.allreduce(x, [axis for axis in range(self.ndims) if axis not in split], "SUM")

    def _all(self, x: Slice, mesh_axis: int) -> None:
        """Notes the sum of all slices along an axis, each among zeros of the others' size."""
        row = Slice([1, *x.slice_shape], x.dtype, x.operation)
        self._noted(ALL_REDUCE, row.resized(0, self.shape[mesh_axis].size), [mesh_axis])

    def sent(self, kind: str, x: Slice, group: int) -> Slice:
        """Returns what is really sent: types that the exchanges of TPUs lack are cast."""
        if kind == ALL_TO_ALL and x.dtype == tf.float32:
            return x.cast(tf.bfloat16)
        if kind == ALL_REDUCE and (x.dtype != tf.bfloat16 or group > TPU_BFLOAT16_GROUP):
            return x.cast(tf.float32)
        if kind == SHIFT and x.dtype not in (tf.float32, tf.bfloat16, tf.int32):
            return x.cast(tf.float32)
        return x


def _einsum_shape(operation: mtf.Operation) -> mtf.Shape:
    """Returns the shape that an einsum computes before its result is broadcast."""
    given = {dim for x in operation.inputs for dim in x.shape.dims}
    return mtf.Shape([dim for dim in operation.outputs[0].shape.dims if dim in given])
