"""Sizes of the buffers that tokens are moved into."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SlotSizes:
    """Sizes of buffers that the shapes of tensors do not show.

    Attributes:
      num_experts: X.
      capacity: C.
      in_order: whether choice j is always expert j.
    """

    num_experts: int
    capacity: int
    in_order: bool

    @property
    def num_slots(self) -> int:
        """Slots of a group."""
        return self.num_experts * self.capacity
