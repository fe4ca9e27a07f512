"""Tokens to the buffers of experts and back; every all-to-all of the package is here.

Dimensions: E outer experts that were chosen already, B batch dimensions that wait
for further levels, G groups, S tokens of a group, X experts, C slots of a buffer,
M depth. A tick marks a dimension that is split over a mesh axis.
"""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf
from hmoe.dispatch import operations
from hmoe.routing.assignment import Assignment


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
        return self._rename(
            buffers, {self.experts_unsplit.name: self.experts, self.group.name: self.group_unsplit}
        )

    def to_groups(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """[X', ..., G, C, ...] -> [X, ..., G', C, ...]: the all-to-all back."""
        return self._rename(
            buffers, {self.experts.name: self.experts_unsplit, self.group_unsplit.name: self.group}
        )

    @staticmethod
    def _rename(tensor: mtf.Tensor, names: dict) -> mtf.Tensor:
        dims = [names.get(dim.name, dim) for dim in tensor.shape.dims]
        return mtf.reshape(tensor, mtf.Shape(dims), name="exchange")


class Dispatcher:
    """Moves what belongs to tokens into buffers, and what belongs to slots back."""

    def __init__(self, assignment: Assignment, exchange: Exchange, engine: str):
        """Prepares the movement of one level.

        Args:
          assignment: who goes where, dimensions [*E, *B, G', S, K].
          exchange: the dimensions to swap.
          engine: one of `hmoe.dispatch.operations.ENGINES`.
        """
        self._assignment = assignment
        self._exchange = exchange
        self._places = operations.places(
            assignment.expert,
            assignment.position,
            [exchange.experts_unsplit, assignment.capacity_dim],
            in_order=assignment.choices.in_order,
            engine=engine,
        )

    def dispatch(self, tokens: mtf.Tensor) -> mtf.Tensor:
        """[*E, *B, G', S, ..., M] -> [X', *E, *B, G, C, ..., M]; 0 in empty slots."""
        return self._exchange.to_experts(operations.to_slots(tokens, self._places))

    def dispatch_per_choice(self, fields: list[mtf.Tensor]) -> list[mtf.Tensor]:
        """Each float32 [*E, *B, G', S, K] -> [X', *E, *B, G, C]; 0 in empty slots.

        All travel in one all-to-all, and have no gradient.
        """
        dim = mtf.Dimension("fields", len(fields))
        sent = self._exchange.to_experts(operations.choices_to_slots(fields, self._places, dim))
        return mtf.unstack(sent, dim)

    def combine(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """[X', *E, *B, G, C, ..., N] -> weighted sums [*E, *B, G', S, ..., N]."""
        weights = mtf.cast(self._assignment.weight, buffers.dtype)
        return operations.to_tokens(self._exchange.to_groups(buffers), self._places, weights)

    def collect(self, buffers: mtf.Tensor) -> mtf.Tensor:
        """float32 [X', *E, *B, G, C, F] -> [*E, *B, G', S, F]: sums, of the last field weighted."""
        buffers = mtf.stop_gradient(self._exchange.to_groups(buffers))
        dim = buffers.shape.dims[-1]
        counted = operations.to_tokens(mtf.slice(buffers, 0, dim.size - 1, dim.name), self._places)
        weighted = operations.to_tokens(
            mtf.slice(buffers, dim.size - 1, 1, dim.name), self._places, self._assignment.weight
        )
        return mtf.stop_gradient(mtf.concat([counted, weighted], dim.name))
