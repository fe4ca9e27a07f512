"""Sizes of a layer that every side of a case shares, and the slots that follow from them."""

from __future__ import annotations

import dataclasses
import math

# Forward, gradient of the inputs, gradient of the weights: as many multiplies of one cost.
PASSES = 3

# Rows and columns of the matrix whose square tells the peak.
PEAK_SIZE = 2048


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a mixture layer.

    Attributes:
      outer_batch, batch, length: of the tokens.
      d_model: depth of the inputs and of the outputs.
      hidden: of an expert.
      experts: at each level.
      group: tokens in a group, as asked for at every level.
      capacity_factors: of each level.
      splits: devices over which the groups of each level are split.
    """

    outer_batch: int = 1
    batch: int = 64
    length: int = 64
    d_model: int = 512
    hidden: int = 2048
    experts: tuple[int, ...] = (4, 4)
    group: int = 1024
    capacity_factors: tuple[float, ...] = (1.25, 1.0)
    splits: tuple[int, ...] = (1, 1)

    @property
    def tokens(self) -> int:
        return self.outer_batch * self.batch * self.length

    @property
    def num_experts(self) -> int:
        return math.prod(self.experts)

    @property
    def groups(self) -> tuple[int, ...]:
        """Tokens in a group at each level."""
        return tuple(group for group, _ in self._levels())

    @property
    def slots(self) -> int:
        """Places in the buffers of all experts together."""
        return self.num_experts * self._levels()[-1][1]

    def _levels(self):
        """(tokens in a group, slots of one expert for the whole batch) of each level."""
        found, arriving, groups_before = [], self.batch * self.length, self.outer_batch
        for experts, factor, splits in zip(self.experts, self.capacity_factors, self.splits):
            number, size = upstream_groups(arriving, self.group, splits)
            capacity = max(4, min(size, int(size * factor / experts)))
            arriving, groups_before = groups_before * number * capacity, 1
            found.append((size, arriving))
        return found

    def flops(self, matrices: int = 2, slots: int = 0) -> int:
        """Of the experts' matrix multiplies, forward and backward.

        Args:
          matrices: of each expert.
          slots: that the experts multiply; 0 for those of this layer.
        """
        return PASSES * matrices * 2 * (slots or self.slots) * self.d_model * self.hidden


def upstream_groups(tokens: int, largest: int, splits: int) -> tuple[int, int]:
    """(groups, tokens in each), as Mesh TensorFlow's own layers choose them.

    The size may exceed the one asked for, up to twice.
    """
    number = max(1, tokens // largest)
    while number % splits or tokens % number:
        number += 1
    return number, tokens // number
