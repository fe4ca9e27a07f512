"""Finds the token in each slot, by loops over an assignment's tables."""

from __future__ import annotations

import numpy as np


def slot_tokens(
    expert: np.ndarray, position: np.ndarray, num_experts: int, capacity: int
) -> np.ndarray:
    """Returns int [..., X, C], the token of the group in each slot, or -1 for an empty slot.

    Args:
      expert: int [..., S, K], the expert of each choice.
      position: int [..., S, K], its slot there, or -1 where it found no room.
      num_experts: X.
      capacity: C.
    """
    groups = expert.shape[:-2]
    slots = np.full([*groups, num_experts, capacity], -1)
    for *group, token, choice in np.argwhere(position >= 0):
        slot = (*group, expert[(*group, token, choice)], position[(*group, token, choice)])
        assert slots[slot] < 0, f"two tokens stand in slot {slot}"
        slots[slot] = token
    return slots
