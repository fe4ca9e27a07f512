"""Tokens to the buffers of experts and back; every all-to-all of the package is here.

Dimensions: E outer experts that were chosen already, B batch dimensions that wait
for further levels, G groups, S tokens of a group, X experts, C slots of a buffer,
M depth. A tick marks a dimension that is split over a mesh axis.
"""
from __future__ import annotations

import dataclasses

from hmoe.assignment import Assignment
from hmoe.compat.stack import mtf, tf


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The one mesh axis along which a level exchanges tokens.

    Attributes:
      group: G', the dimension of groups, split.
      group_unsplit: G, the same by the name that no layout rule splits.
      experts: X', the dimension of experts, split.
      experts_unsplit: X, the same by the name that no layout rule splits.
    """

    group: mtf.Dimension
    group_unsplit: mtf.Dimension
    experts: mtf.Dimension
    experts_unsplit: mtf.Dimension

    def to_experts(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """[X, ..., G', C, ...] -> [X', ..., G, C, ...]: an all-to-all."""
        return self._rename(buffers, {self.experts_unsplit.name: self.experts,
                                      self.group.name: self.group_unsplit})

    def to_groups(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """[X', ..., G, C, ...] -> [X, ..., G', C, ...]: the all-to-all back."""
        return self._rename(buffers, {self.experts.name: self.experts_unsplit,
                                      self.group_unsplit.name: self.group})

    @staticmethod
    def _rename(tensor: mtf.Tensor, names: dict) -> mtf.Tensor:
        dims = [names.get(dim.name, dim) for dim in tensor.shape.dims]
        return mtf.reshape(tensor, mtf.Shape(dims), name="exchange")


def put_in_slots(
    values: mtf.Tensor, slots: mtf.Tensor, slot_dims: list[mtf.Dimension]
) -> mtf.Tensor:
    """Writes the value of each choice where its slot is, and zeros elsewhere.

    Args:
      values: float32 [..., S, K].
      slots: int32 [..., S, K], expert * C + position, or -1 for no slot.
      slot_dims: [X, C].

    Returns:
      float32 [..., S, X, C]. The gradient of a value is read from its slot.
    """
    num_slots = slot_dims[0].size * slot_dims[1].size
    num_choices = values.shape.dims[-1].size
    groups = values.shape.dims[:-2]

    def write(values: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
        # Choice by choice: summing a one-hot tensor over K costs several times as much.
        flat = tf.add_n([
            tf.one_hot(slots[..., k], num_slots, dtype=tf.float32) * values[..., k, None]
            for k in range(num_choices)])
        return tf.reshape(flat, [*flat.shape.as_list()[:-1], *(dim.size for dim in slot_dims)])

    def read(written: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(written, [*written.shape.as_list()[:-2], num_slots])
        found = tf.gather(flat, tf.maximum(slots, 0), batch_dims=len(flat.shape) - 1)
        return tf.where(slots < 0, tf.zeros_like(found), found)

    def gradient(operation: mtf.Operation, written: mtf.Tensor) -> list[mtf.Tensor | None]:
        values, slots = operation.inputs
        return [mtf.slicewise(read, [written, slots], output_shape=values.shape,
                              output_dtype=tf.float32, splittable_dims=groups, grad_function=0,
                              name="read_slots"), None]

    return mtf.slicewise(
        write, [values, slots], output_shape=mtf.Shape(values.shape.dims[:-1] + slot_dims),
        output_dtype=tf.float32, splittable_dims=groups, grad_function=gradient,
        name="put_in_slots")


class Dispatcher:
    """Moves what belongs to tokens into buffers, and what belongs to slots back.

    The one-hot tensors are made once and shared by all that moves.
    """

    def __init__(self, assignment: Assignment, exchange: Exchange, dtype: tf.DType):
        """Prepares the movement of one level.

        Args:
          assignment: who goes where, dimensions [*E, *B, G', S, K].
          exchange: the dimensions to swap.
          dtype: type of the activations that move.
        """
        self._assignment = assignment
        self._exchange = exchange
        self._dtype = dtype
        self._groups: list[mtf.Dimension] = assignment.position.shape.dims[:-2]
        self._slots = assignment.slots()
        # [*E, *B, G', S, X, C]: 1 where the token stands in the slot. Choices that
        # were not kept have no slot, so their one-hot rows are zero.
        self._mask = self._per_slot(assignment.kept)
        self._weights = self._per_slot(assignment.weight)

    def dispatch(self, tokens: mtf.Tensor) -> mtf.Tensor:
        """[*E, *B, G', S, ..., M] -> [X', *E, *B, G, C, ..., M], in the type of the activations."""
        mask = mtf.cast(self._mask, self._dtype)
        trailing = tokens.shape.dims[len(self._groups) + 1:]
        buffers = mtf.einsum([tokens, mask], mtf.Shape(self._buffer_dims() + trailing))
        return self._exchange.to_experts(buffers)

    def dispatch_per_choice(self, fields: list[mtf.Tensor]) -> list[mtf.Tensor]:
        """Each float32 [*E, *B, G', S, K] -> [X', *E, *B, G, C]; 0 in empty slots.

        All travel in one all-to-all.
        """
        shape = mtf.Shape(self._buffer_dims())
        placed = [mtf.reduce_sum(self._per_slot(values), output_shape=shape) for values in fields]
        if len(placed) == 1:
            return [self._exchange.to_experts(placed[0])]
        sent = self._exchange.to_experts(mtf.stack(placed, "fields", axis=len(shape)))
        return mtf.unstack(sent, sent.shape.dims[-1])

    def combine(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """[X', *E, *B, G, C, ..., N] -> weighted sums [*E, *B, G', S, ..., N]."""
        weights = mtf.cast(self._weights, self._dtype)
        buffers = self._exchange.to_groups(buffers)
        return self._sum_over_slots(buffers, weights)

    def collect(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """float32 [X', *E, *B, G, C, F] -> [*E, *B, G', S, F]: sums, of the last field weighted."""
        buffers = self._exchange.to_groups(buffers)
        kept, weight = self._assignment.kept, mtf.stop_gradient(self._assignment.weight)
        num_slots = self._exchange.experts.size * self._assignment.capacity_dim.size
        num_groups = len(self._groups)

        def read(buffers: tf.Tensor, slots: tf.Tensor, kept: tf.Tensor,
                 weight: tf.Tensor) -> tf.Tensor:
            # Slot by slot: an einsum would read a one-hot row of all slots for each token.
            by_group = tf.transpose(
                buffers, [*range(1, num_groups + 1), 0, num_groups + 1, num_groups + 2])
            shape = by_group.shape.as_list()
            flat = tf.reshape(by_group, [*shape[:num_groups], num_slots, shape[-1]])
            # [*E, *B, G', S, K, F]
            found = tf.gather(flat, tf.maximum(slots, 0), batch_dims=num_groups)
            shares = [kept] * (shape[-1] - 1) + [weight]
            return tf.reduce_sum(found * tf.stack(shares, axis=-1), axis=-2)

        return mtf.slicewise(
            read, [buffers, self._slots, kept, weight],
            output_shape=mtf.Shape([*kept.shape.dims[:-1], buffers.shape.dims[-1]]),
            output_dtype=tf.float32, splittable_dims=self._groups, grad_function=0, name="collect")

    def _sum_over_slots(self, buffers: mtf.Tensor, weights: mtf.Tensor) -> mtf.Tensor:
        tokens = self._groups + [self._assignment.choices.tokens_dim]
        trailing = buffers.shape.dims[len(self._groups) + 2:]
        return mtf.einsum([buffers, weights], mtf.Shape(tokens + trailing))

    def _per_slot(self, values: mtf.Tensor) -> mtf.Tensor:
        """[*E, *B, G', S, K] -> [*E, *B, G', S, X, C], a choice's value in its slot."""
        choices, capacity = self._assignment.choices, self._assignment.capacity_dim
        if choices.in_order:
            position = choices.by_expert(self._assignment.position)
            # A position of -1 has no 1 in its row.
            return choices.by_expert(values) * mtf.one_hot(position, capacity, dtype=tf.float32)
        return put_in_slots(values, self._slots, [self._exchange.experts_unsplit, capacity])

    def _buffer_dims(self) -> list[mtf.Dimension]:
        return ([self._exchange.experts_unsplit] + self._groups
                + [self._assignment.capacity_dim])
