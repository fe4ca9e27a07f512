"""What an engine must know besides the shapes of tensors."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What an engine must know besides the shapes of tensors.

    Attributes:
      num_experts: X.
      capacity: C.
      in_order: whether choice j is always of expert j.
    """

    num_experts: int
    capacity: int
    in_order: bool

    @property
    def num_slots(self) -> int:
        """Slots of a group."""
        return self.num_experts * self.capacity
