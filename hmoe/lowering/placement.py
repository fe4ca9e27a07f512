"""Slices of a mesh on CPUs and GPUs, with few TensorFlow operations where devices are simulated.

A simulated mesh names one device several times. Upstream's implementation builds every operation
for every slice, passes slices of a collective around a ring, and keeps a copy of each weight for
each slice. On one device all of that is in one memory: what is the same for two slices is built,
computed and kept once, and a collective takes its parts from where they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import TypeAlias

from mesh_tensorflow import placement_mesh_impl as upstream

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import op_replay

# The slices of one tensor on all devices.
LaidOut: TypeAlias = upstream.PlacementMeshImpl.LaidOutTensor


class SharingPlacement(upstream.PlacementMeshImpl):
    """Does what upstream's `PlacementMeshImpl` does; equal slices on one device are one tensor.

    Attributes:
      reuse_graph: whether slices take over operations that were built for others.
    """

    class LaidOutVariable(upstream.PlacementMeshImpl.LaidOutVariable):
        """A variable whose slices are one variable where device and part are the same."""

        def __init__(self, variable: mtf.Variable, mesh_impl: SharingPlacement):
            self._variable = variable
            self._mesh_impl = mesh_impl
            # Copying one slice after the other, which saves memory, is left to upstream.
            if self.slice_is_master or os.environ.get("MTF_SEQUENCE_MODE") == "1":
                super().__init__(variable, mesh_impl)
                return
            shape = variable.outputs[0].shape
            slices = _slice_variables(variable, shape, mesh_impl)
            self._laid_out_tensor = mesh_impl.LaidOutTensor(slices)
            self._copy_master_to_slices = self.assign_to_slices(
                mtf.assign_slice, mesh_impl.make_slices(variable.get_master(), shape)
            )
            as_master = _once_each(slices, lambda each: tf.cast(each, variable.master_dtype))
            self._copy_slices_to_master = variable.assign_to_master(
                mesh_impl.combine_slices(as_master, shape)
            )

        def assign_to_slices(self, assign_fn: Callable, values: list[tf.Tensor]) -> tf.Operation:
            """Assigns to each slice variable once; values for the same one are equal."""
            first: dict[int, tuple[int, tf.Variable]] = {}
            for number, each in enumerate(self.laid_out_tensor.all_slices):
                first.setdefault(id(each), (number, each))
            assigned = []
            for number, each in first.values():
                with tf.device(self._mesh_impl.devices[number]):
                    assigned.append(assign_fn(self._variable, each, values[number]))
            return tf.group(*assigned)

    def __init__(
        self,
        shape: mtf.Shape,
        layout: mtf.LayoutRules,
        devices: list[str],
        reuse_graph: bool = True,
    ):
        """See `hmoe.lowering.lower.make_mesh`."""
        super().__init__(shape, layout, devices)
        self.reuse_graph = reuse_graph
        self._replays = op_replay.Replays()

    def slicewise(self, fn: Callable, *inputs: LaidOut) -> LaidOut | tuple[LaidOut, ...]:
        """Applies `fn` to the slices of each device, and once to equal ones on one device."""
        arguments = [
            x.tensor_list if isinstance(x, self.LaidOutTensor) else [x] * self.size
            for x in mtf.convert_args_to_laid_out_tensors(inputs)
        ]
        results: dict[Hashable, op_replay.Outputs] = {}
        build = self._replays.of(fn) if self.reuse_graph else _anew(fn)
        for number, (device, *slices) in enumerate(zip(self.devices, *arguments)):
            key = _key(device, slices)
            if key not in results:
                # Upstream opens a variable scope here, which takes longer; no variable is made.
                with tf.device(device), tf.name_scope(f"parallel_{number}"):
                    results[key] = build(slices)
        laid_out = [
            results[_key(device, slices)] for device, *slices in zip(self.devices, *arguments)
        ]
        if isinstance(laid_out[0], tuple):
            return tuple(self.LaidOutTensor(list(each)) for each in zip(*laid_out))
        return self.LaidOutTensor(laid_out)

    def laid_out_pcoord(self, mesh_axis: int) -> LaidOut:
        """See upstream; numbers here, where upstream has operations that compute them."""
        return self.LaidOutTensor(
            [
                mtf.pnum_to_processor_coordinates(self.shape, number)[mesh_axis]
                for number in range(self.size)
            ]
        )

    def broadcast_impl(
        self, old_slices: LaidOut, old_shape: mtf.Shape, new_shape: mtf.Shape
    ) -> LaidOut:
        """See upstream, which adds to zeros."""
        size = self.slice_shape(new_shape)
        return self.slicewise(
            lambda x: tf.broadcast_to(mtf.ops._expand_dims(x, old_shape, new_shape), size),
            old_slices,
        )

    def make_slices(self, tf_tensor: tf.Tensor, tensor_shape: mtf.Shape) -> list[tf.Tensor]:
        """Cuts a whole tensor; replicas share a slice."""
        if self.tensor_layout(tensor_shape).is_fully_replicated:
            return [tf_tensor] * self.size
        begins = [tuple(self.slice_begin(tensor_shape, number)) for number in range(self.size)]
        size = self.slice_shape(tensor_shape)
        with tf.device(tf_tensor.device):
            slices = {begin: tf.slice(tf_tensor, begin, size) for begin in dict.fromkeys(begins)}
        return [slices[begin] for begin in begins]

    def allreduce(self, x: LaidOut, mesh_axes: list[int], reduction_fn_string: str) -> LaidOut:
        """See upstream."""

        def reduce(slices: list[tf.Tensor], devices: list[str]) -> list[tf.Tensor]:
            if len(set(devices)) > 1:
                return upstream.allreduce_ring(slices, devices, reduction_fn_string)
            add = mtf.binary_reduction_fn(reduction_fn_string)
            with tf.device(devices[0]):
                return [_from_both_ends(add, slices)] * len(slices)

        return self._collective_with_groups(x, mesh_axes, _in_groups(reduce))

    def allconcat(self, x: LaidOut, mesh_axis: int, concat_axis: int) -> LaidOut:
        """See upstream."""

        def concat(slices: list[tf.Tensor], devices: list[str]) -> list[tf.Tensor]:
            if len(set(devices)) > 1:
                return upstream.allconcat_ring(slices, devices, concat_axis)
            with tf.device(devices[0]):
                return [tf.concat(slices, concat_axis)] * len(slices)

        return self._collective_with_groups(x, [mesh_axis], _in_groups(concat))

    def alltoall(self, x: LaidOut, mesh_axis: int, split_axis: int, concat_axis: int) -> LaidOut:
        """See upstream."""

        def exchange(slices: list[tf.Tensor], devices: list[str]) -> list[tf.Tensor]:
            if len(set(devices)) > 1:
                return upstream.alltoall_ring(slices, devices, split_axis, concat_axis)
            with tf.device(devices[0]):
                parts = _once_each(
                    slices, lambda each: tf.split(each, len(slices), axis=split_axis)
                )
                return [tf.concat(list(each), concat_axis) for each in zip(*parts)]

        return self._collective_with_groups(x, [mesh_axis], _in_groups(exchange))


def _slice_variables(
    variable: mtf.Variable, shape: mtf.Shape, engine: SharingPlacement
) -> list[tf.Variable]:
    """Makes a variable for each device, the same one where device and part are the same."""
    made: dict[Hashable, tf.Variable] = {}
    slices = []
    for number, device in enumerate(engine.devices):
        part = (device, tuple(engine.slice_begin(shape, number)))
        if part not in made:
            with tf.device(device):
                made[part] = tf.get_variable(
                    f"{variable.name}_slice_{number}",
                    engine.slice_shape(shape),
                    dtype=variable.slice_dtype,
                    collections=[],
                    # Never run: slices are copied from the master.
                    initializer=tf.zeros_initializer(),
                )
        slices.append(made[part])
    return slices


def _anew(fn: Callable) -> Callable:
    return lambda slices: fn(*slices)


def _key(device: str, slices: list[op_replay.Slice]) -> Hashable:
    """Returns a key of a device and slices: tensors by identity, numbers by value."""
    return (device, *[(each,) if isinstance(each, int) else id(each) for each in slices])


def _once_each(slices: list[tf.Tensor], fn: Callable) -> list[tf.Tensor]:
    results: dict[int, tf.Tensor] = {}
    for each in slices:
        if id(each) not in results:
            results[id(each)] = fn(each)
    return [results[id(each)] for each in slices]


def _in_groups(collective: Callable) -> Callable:
    """Wraps a collective: a slice alone stays as it is, and a group is not exchanged twice.

    On an axis of size 1 there is nothing to add or exchange; replicas exchange the same tensors.
    """
    known: dict[Hashable, list[tf.Tensor]] = {}

    def exchange(slices: list[tf.Tensor], devices: list[str]) -> list[tf.Tensor]:
        if len(slices) == 1:
            return slices
        key = (*devices, *map(id, slices))
        if key not in known:
            known[key] = collective(slices, devices)
        return known[key]

    return exchange


def _from_both_ends(add: Callable, slices: list[tf.Tensor]) -> tf.Tensor:
    """Reduces two or more slices in upstream's order: each half from its end to the middle."""
    middle = (len(slices) + 1) // 2
    left, right = slices[0], slices[-1]
    for each in slices[1:middle]:
        left = add(left, each)
    for each in reversed(slices[middle:-1]):
        right = add(each, right)
    return add(left, right)
