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
        slots = mtf.Dimension(
            "slots", assignment.choices.experts_dim.size * assignment.capacity_dim.size)
        # [*E, *B, G', S, K, X * C]
        self._one_hot = mtf.one_hot(assignment.slots(), slots, dtype=tf.float32)
        # [*E, *B, G', S, X, C]: 1 where the token stands in the slot. Choices that
        # were not kept have no slot, so their one-hot rows are zero.
        self._mask = self._per_slot(assignment.kept)

    def dispatch(self, tokens: mtf.Tensor) -> mtf.Tensor:
        """[*E, *B, G', S, M] -> [X', *E, *B, G, C, M], in the type of the activations."""
        mask = mtf.cast(self._mask, self._dtype)
        depth = tokens.shape.dims[-1:]
        buffers = mtf.einsum([tokens, mask], mtf.Shape(self._buffer_dims() + depth))
        return self._exchange.to_experts(buffers)

    def dispatch_per_choice(self, values: mtf.Tensor) -> mtf.Tensor:
        """float32 [*E, *B, G', S, K] -> [X', *E, *B, G, C]; 0 in empty slots."""
        placed = self._per_slot(values)
        buffers = mtf.reduce_sum(placed, output_shape=mtf.Shape(self._buffer_dims()))
        return self._exchange.to_experts(buffers)

    def combine(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """[X', *E, *B, G, C, N] -> weighted sums [*E, *B, G', S, N]."""
        weights = mtf.cast(self._per_slot(self._assignment.weight), self._dtype)
        buffers = self._exchange.to_groups(buffers)
        return self._sum_over_slots(buffers, weights)

    def collect(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """float32 [X', *E, *B, G, C, 2] -> [*E, *B, G', S, 2]: (sum, weighted sum)."""
        weighted = self._per_slot(mtf.stop_gradient(self._assignment.weight))
        buffers = self._exchange.to_groups(buffers)
        last = buffers.shape.dims[-1]
        return mtf.concat(
            [self._sum_over_slots(mtf.slice(buffers, 0, 1, last.name), self._mask),
             self._sum_over_slots(mtf.slice(buffers, 1, 1, last.name), weighted)], last.name)

    def _sum_over_slots(self, buffers: mtf.Tensor, weights: mtf.Tensor) -> mtf.Tensor:
        tokens = self._groups + [self._assignment.choices.tokens_dim]
        return mtf.einsum([buffers, weights], mtf.Shape(tokens + buffers.shape.dims[-1:]))

    def _per_slot(self, values: mtf.Tensor) -> mtf.Tensor:
        """[*E, *B, G', S, K] -> [*E, *B, G', S, X, C], a choice's value in its slot."""
        tokens = self._groups + [self._assignment.choices.tokens_dim]
        slots = self._one_hot.shape.dims[-1]
        flat = mtf.einsum([values, self._one_hot], mtf.Shape(tokens + [slots]))
        return mtf.replace_dimensions(
            flat, slots, [self._exchange.experts_unsplit, self._assignment.capacity_dim])

    def _buffer_dims(self) -> list[mtf.Dimension]:
        return ([self._exchange.experts_unsplit] + self._groups
                + [self._assignment.capacity_dim])
