"""Moves tokens to the buffers of experts and back; every all-to-all of the package is here.

Dimensions: E outer experts that were chosen already, B batch dimensions that wait for further
levels, G groups, S tokens of a group, X experts, C slots of a buffer, M depth. A tick marks a
dimension that is split over a mesh axis.
"""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf
from hmoe.dispatch import operations
from hmoe.routing.assignment import Assignment


@dataclasses.dataclass(frozen=True)
class Exchange:
    """The two dimensions that swap along one mesh axis when a level exchanges tokens.

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
        """Sends [X, ..., G', ...] to the experts [X', ..., G, ...] by an all-to-all."""
        return _exchange(buffers, self.expert_side(buffers.shape.dims))

    def expert_side(self, dims: list[mtf.Dimension]) -> list[mtf.Dimension]:
        """Returns dimensions [X, ..., G', ...] as the experts have them, [X', ..., G, ...]."""
        return _renamed(
            dims, {self.experts_unsplit.name: self.experts, self.group.name: self.group_unsplit}
        )

    def to_groups(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """Sends [X', ..., G, ...] back to the groups [X, ..., G', ...] by an all-to-all."""
        names = {self.experts.name: self.experts_unsplit, self.group_unsplit.name: self.group}
        return _exchange(buffers, _renamed(buffers.shape.dims, names))


class Dispatcher:
    """Moves values of tokens into the slots of experts, and values of slots back to tokens."""

    def __init__(self, assignment: Assignment, exchange: Exchange, engine: str):
        """Indexes the slots of one level.

        Args:
          assignment: the slot of each choice, with dimensions [*E, *B, G', S, K].
          exchange: the dimensions to swap.
          engine: one of `hmoe.dispatch.operations.ENGINES`.
        """
        self._weight = assignment.weight
        self._exchange = exchange
        self._index = operations.slot_index(
            assignment.expert,
            assignment.position,
            [exchange.experts_unsplit, assignment.capacity_dim],
            in_order=assignment.choices.in_order,
            engine=engine,
        )

    @property
    def slot_dims(self) -> list[mtf.Dimension]:
        """The dimensions of slots, [X', *E, *B, G, C]."""
        return self._exchange.expert_side(self._index.sources.shape.dims)

    def dispatch(self, tokens: mtf.Tensor) -> mtf.Tensor:
        """Sends tokens [*E, *B, G', S, ..., M] to slots [X', *E, *B, G, C, ..., M].

        Empty slots get 0.
        """
        return self._exchange.to_experts(operations.to_slots(tokens, self._index))

    def dispatch_per_choice(self, fields: list[mtf.Tensor]) -> list[mtf.Tensor]:
        """Sends values of choices, each float32 [*E, *B, G', S, K], to slots [X', *E, *B, G, C].

        All travel in one all-to-all, without a gradient. Empty slots get 0.
        """
        dim = mtf.Dimension("fields", len(fields))
        sent = self._exchange.to_experts(operations.choices_to_slots(fields, self._index, dim))
        # [X', *E, *B, G, C, F] -> F of [X', *E, *B, G, C]
        return mtf.unstack(sent, dim)

    def combine(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """Sends slots [X', *E, *B, G, C, ..., N] back and sums them by weight.

        Returns:
          [*E, *B, G', S, ..., N].
        """
        weights = mtf.cast(self._weight, buffers.dtype)
        return operations.to_tokens(self._exchange.to_groups(buffers), self._index, weights)

    def collect(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """Sends F numbers of each slot back and sums them, the last one by weight. No gradient.

        Args:
          buffers: float32 [X', *E, *B, G, C, F].

        Returns:
          float32 [*E, *B, G', S, F].
        """
        buffers = mtf.stop_gradient(self._exchange.to_groups(buffers))
        dim = buffers.shape.dims[-1]
        counted = operations.to_tokens(mtf.slice(buffers, 0, dim.size - 1, dim.name), self._index)
        weighted = operations.to_tokens(
            mtf.slice(buffers, dim.size - 1, 1, dim.name), self._index, self._weight
        )
        return mtf.stop_gradient(mtf.concat([counted, weighted], dim.name))


def _renamed(dims: list[mtf.Dimension], names: dict[str, mtf.Dimension]) -> list[mtf.Dimension]:
    return [names.get(dim.name, dim) for dim in dims]


def _exchange(tensor: mtf.Tensor, dims: list[mtf.Dimension]) -> mtf.Tensor:
    # [..., X, ..., G', ...] -> [..., X', ..., G, ...] or back: a reshape that splits one dimension
    # and gathers another lowers to one all-to-all.
    return mtf.reshape(tensor, mtf.Shape(dims), name="exchange")
