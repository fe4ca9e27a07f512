"""Expert capacity: how many slots an expert has for one group, in exact integers."""

from __future__ import annotations

import logging
import math
from fractions import Fraction


def exactly(number: float) -> Fraction:
    """Returns a number as a person wrote it: 1.15 is 115/100, not a binary fraction below it."""
    return Fraction(str(number))


def expert_capacity(level: str, size: int, factor: float, num_experts: int, minimum: int) -> int:
    """Returns min(size, max(minimum, size * factor / experts)), an expert's slots for one group.

    Args:
      level: name of the level, for messages.
      size: tokens in a group.
      factor: slots for the group as a multiple of its tokens.
      num_experts: experts that share the slots.
      minimum: slots that an expert has at least, unless the group is smaller.

    Returns:
      The capacity, rounded down from the exact quotient, never above the group.

    Raises:
      ValueError: there is no room for a single token.
    """
    slots = size * exactly(factor)
    capacity = min(size, max(minimum, math.floor(slots / num_experts)))
    if capacity < 1:
        # Rounded up, so that what is recommended does give room.
        enough = math.ceil(Fraction(100 * num_experts, size)) / 100
        raise ValueError(
            f"level '{level}': a group of {size} tokens with capacity factor {factor} gives each of"
            f" {num_experts} experts {float(slots / num_experts):.3g} slots and min_capacity is"
            f" {minimum}, so no token finds room; raise the capacity factor to"
            f" {enough:g}, or min_capacity to 1"
        )
    if capacity * num_experts != slots:
        logging.getLogger(__name__).info(
            "level '%s': capacity factor %g asked for, %g resulted: %d slots for each of %d experts"
            " in a group of %d tokens (min_capacity = %d)",
            level,
            factor,
            capacity * num_experts / size,
            capacity,
            num_experts,
            size,
            minimum,
        )
    return capacity
