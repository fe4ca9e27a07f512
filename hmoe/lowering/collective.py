"""A mesh whose slices live in many processes, each of which builds and runs its own slice alone.

So a graph does not grow with the mesh. The processes meet in TensorFlow's collectives, over gRPC on
CPUs and NCCL on GPUs. All of them must build the same graph and run the same steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import slice_variables
from hmoe.lowering.exchanges import Exchanges, Peers, Traffic
from hmoe.lowering.kinds import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL
from hmoe.startup import mesh_order

# A tensor of the mesh: the slice of this process, or what becomes one when it is read.
LaidOut: TypeAlias = Any


class Slice:
    """The slice that this process has of a tensor.

    Attributes:
      tensor_list: the slice alone, in the list that Mesh TensorFlow expects.
    """

    def __init__(self, tensor_list: list[tf.Tensor]):
        self.tensor_list = tensor_list

    @classmethod
    def from_tensor_list(cls, tensor_list: list[tf.Tensor]) -> Slice:
        """Returns the slice in a list."""
        return cls(tensor_list)

    @property
    def all_slices(self) -> list[tf.Tensor]:
        """The slices of this process: one."""
        return self.tensor_list

    @property
    def one_slice(self) -> tf.Tensor:
        """The slice."""
        return self.tensor_list[0]

    @property
    def slice_shape(self) -> list[int]:
        """The shape of the slice."""
        return self.one_slice.shape.as_list()

    def to_laid_out_tensor(self) -> Slice:
        """Returns the slice itself, as what is computed later does when it is read."""
        return self


class SliceVariable:
    """A variable of which this process holds a slice, which is also what is saved."""

    def __init__(self, variable: mtf.Variable, mesh_impl: CollectiveMesh):
        self._variable = variable
        shape = variable.shape
        with tf.device(mesh_impl.device):
            self.slice = slice_variables.make(
                variable,
                mesh_impl.slice_begin(shape, mesh_impl.pnum),
                mesh_impl.slice_shape(shape),
                lambda whole: mesh_impl.cut(whole, shape),
            )
        self.laid_out_tensor = Slice([self.slice])
        # There is no master to copy from or to.
        self.copy_master_to_slices = self.copy_slices_to_master = tf.no_op()
        mesh_impl.variable_shapes.append(shape)
        if mesh_impl.is_first_with(shape, mesh_impl.number):
            mesh_impl.own_variables.append(self.slice)

    def assign_to_slices(
        self, assign_fn: Callable[..., tf.Operation], values: list[tf.Tensor]
    ) -> tf.Operation:
        """Assigns a value to the slice."""
        return assign_fn(self._variable, self.slice, values[0])


class CollectiveMesh(mtf.MeshImpl):
    """The mesh as one process of it sees it.

    After the graph is lowered and everything is exported, `finish` makes the collectives.

    Attributes:
      number: the number of this process.
      pnum: the number of its slice, as Mesh TensorFlow counts.
      coordinates: where the slice is along each axis of the mesh.
      device: name of the device of this process.
      variable_shapes: the shape of each variable, whole.
      own_variables: the slices that this process is the one to save.
      exchanges: the exchanges with other processes.
    """

    LaidOutTensor = Slice
    LaidOutVariable = SliceVariable

    def __init__(
        self,
        shape: mtf.Shape,
        layout: mtf.LayoutRules,
        number: int,
        device: str,
        hint: str = "auto",
    ):
        """See `hmoe.lowering.lower.make_mesh_of_processes`."""
        super().__init__(shape, layout)
        self.number = number
        self.device = device
        self.variable_shapes: list[mtf.Shape] = []
        self.own_variables: list[tf.Variable] = []
        self.exchanges = Exchanges(device, hint)
        self._sizes = {dim.name: dim.size for dim in self.shape.dims}
        self._rules = sorted(self.layout_rules._pairs)
        self.coordinates = self._coordinates_of(number)
        self.pnum = mtf.processor_coordinates_to_pnum(self.shape, self.coordinates)
        # Numbers of the processes by their coordinates.
        self._numbers = {self._coordinates_of(each): each for each in range(self.size)}
        self._peers: dict[tuple[int, ...], Peers] = {}

    def is_first_with(self, shape: mtf.Shape, number: int) -> bool:
        """Returns whether a process is the first of those that have its slice of a tensor.

        Args:
          shape: shape of the whole tensor.
          number: number of the process.
        """
        split = self.tensor_layout(shape).tensor_axis_to_mesh_axis
        coordinates = self._coordinates_of(number)
        return all(at == 0 for axis, at in enumerate(coordinates) if axis not in split)

    def finish(self, roots: Iterable[tf.Tensor | tf.Operation]) -> None:
        """Makes the collectives of the graph.

        Args:
          roots: everything that sessions will run.
        """
        self.exchanges.finish(roots)

    @property
    def traffic(self) -> list[Traffic]:
        """What this process sends when the graph runs once."""
        return self.exchanges.traffic

    def slicewise(self, fn: Callable, *inputs: LaidOut) -> Slice | tuple[Slice, ...]:
        """Applies `fn` to the slice of this process."""
        slices = [
            x.one_slice if isinstance(x, Slice) else x
            for x in mtf.convert_args_to_laid_out_tensors(inputs)
        ]
        with tf.device(self.device):
            result = fn(*slices)
        if isinstance(result, tuple):
            return tuple(Slice([each]) for each in result)
        return Slice([result])

    def _on_slice(self, fn: Callable[[tf.Tensor], tf.Tensor], x: LaidOut) -> Slice:
        with tf.device(self.device):
            return Slice([fn(x.to_laid_out_tensor().one_slice)])

    def allreduce(self, x: LaidOut, mesh_axes: Sequence[int], reduction_fn_string: str) -> Slice:
        """Reduces over the processes that differ along these axes alone."""
        peers = self.peers(mesh_axes)
        x = x.to_laid_out_tensor()
        if peers.size == 1:
            return x
        return Slice([self.exchanges.add(ALL_REDUCE, x.one_slice, peers, reduction_fn_string)])

    def allconcat(self, x: LaidOut, mesh_axis: int, concat_axis: int) -> Slice:
        """Concatenates the slices along a mesh axis."""
        peers = self.peers([mesh_axis])
        x = x.to_laid_out_tensor()
        if peers.size == 1:
            return x
        # [..., concat, ...] -> [concat, ...] -> [processes * concat, ...] -> and back
        front = self._on_slice(lambda t: _to_front(t, concat_axis), x)
        whole = Slice([self.exchanges.add(ALL_GATHER, front.one_slice, peers)])
        return self._on_slice(lambda t: _from_front(t, concat_axis), whole)

    def alltoall(self, x: LaidOut, mesh_axis: int, split_axis: int, concat_axis: int) -> Slice:
        """Exchanges parts of slices along a mesh axis."""
        peers = self.peers([mesh_axis])
        x = x.to_laid_out_tensor()
        if peers.size == 1:
            return x
        parts = self._on_slice(lambda t: _parts(t, peers.size, split_axis), x)
        parts = Slice([self.exchanges.add(ALL_TO_ALL, parts.one_slice, peers)])
        return self._on_slice(lambda t: _joined(t, concat_axis), parts)

    def receive(self, x: LaidOut, mesh_axis: int, source_pcoord: Sequence[int | None]) -> Slice:
        """Receives the slice of another process along a mesh axis; zeros where there is none."""
        source = source_pcoord[self.coordinates[mesh_axis]]
        # All take part, those too that receive nothing: [1, ...] -> [processes, ...]
        slices = self.allconcat(self._on_slice(lambda t: t[None], x), mesh_axis, 0)
        if source is not None:
            return self._on_slice(lambda t: t[source], slices)
        # Zeros that wait for the exchange: it would be left out here otherwise, and nowhere else.
        with tf.control_dependencies([slices.one_slice]):
            return self._on_slice(lambda t: tf.zeros(t.shape[1:], t.dtype), slices)

    def laid_out_pnum(self) -> Slice:
        """Returns the number of the slice, in a list."""
        return Slice([self.pnum])

    def laid_out_pcoord(self, mesh_axis: int) -> Slice:
        """Returns where the slice is along an axis, in a list."""
        return Slice([self.coordinates[mesh_axis]])

    def import_tf_tensor(self, x: mtf.Tensor, tf_x: tf.Tensor) -> Slice:
        """Cuts the slice from a whole tensor, which every process has."""
        with tf.device(self.device):
            return Slice([self.cut(tf_x, x.shape)])

    def cut(self, whole: tf.Tensor, shape: mtf.Shape) -> tf.Tensor:
        """Cuts the slice of this process from a whole tensor."""
        if self.tensor_layout(shape).is_fully_replicated:
            return tf.identity(whole)
        return tf.slice(whole, self.slice_begin(shape, self.pnum), self.slice_shape(shape))

    def export_to_tf_tensor(self, x: mtf.Tensor, laid_out_x: LaidOut) -> tf.Tensor:
        """Returns the whole tensor, in every process."""
        found = laid_out_x.to_laid_out_tensor()
        split = self.tensor_layout(x.shape).tensor_axis_to_mesh_axis
        for tensor_axis, mesh_axis in enumerate(split):
            if mesh_axis is not None:
                found = self.allconcat(found, mesh_axis, tensor_axis)
        return found.one_slice

    def broadcast_impl(
        self, old_slices: LaidOut, old_shape: mtf.Shape, new_shape: mtf.Shape
    ) -> Slice:
        """See upstream, which adds to zeros."""
        size = self.slice_shape(new_shape)
        return self._on_slice(
            lambda x: tf.broadcast_to(mtf.ops._expand_dims(x, old_shape, new_shape), size),
            old_slices,
        )

    def peers(self, mesh_axes: Sequence[int]) -> Peers:
        """Returns the processes that differ from this one along these axes alone, and itself."""
        axes = tuple(sorted(mesh_axes))
        if axes not in self._peers:
            numbers = sorted(
                number
                for where, number in self._numbers.items()
                if all(where[a] == at for a, at in enumerate(self.coordinates) if a not in axes)
            )
            names = tuple(self.shape.dimension_names[axis] for axis in axes)
            self._peers[axes] = Peers(group_key(numbers), len(numbers), names)
        return self._peers[axes]

    def _coordinates_of(self, number: int) -> tuple[int, ...]:
        return tuple(mesh_order.coordinates(number, self._sizes, self._rules).values())


def group_key(numbers: Sequence[int]) -> int:
    """Returns the number by which TensorFlow knows a group of processes, above 0."""
    return 1 + zlib.crc32(repr(list(numbers)).encode()) % (2**31 - 1)


def _to_front(x: tf.Tensor, axis: int) -> tf.Tensor:
    order = list(range(x.shape.rank))
    return x if axis == 0 else tf.transpose(x, [axis, *order[:axis], *order[axis + 1 :]])


def _from_front(x: tf.Tensor, axis: int) -> tf.Tensor:
    order = list(range(1, x.shape.rank))
    return x if axis == 0 else tf.transpose(x, [*order[:axis], 0, *order[axis:]])


def _parts(x: tf.Tensor, number: int, axis: int) -> tf.Tensor:
    """Moves n parts of a dimension to the front: [..., n * s, ...] -> [n, ..., s, ...]."""
    shape = x.shape.as_list()
    cut = tf.reshape(x, [*shape[:axis], number, shape[axis] // number, *shape[axis + 1 :]])
    return _to_front(cut, axis)


def _joined(parts: tf.Tensor, axis: int) -> tf.Tensor:
    """Joins parts along a dimension: [n, ..., s, ...] -> [..., n * s, ...]."""
    shape = parts.shape.as_list()[1:]
    shape[axis] *= parts.shape.as_list()[0]
    return tf.reshape(_from_front(parts, axis), shape)
