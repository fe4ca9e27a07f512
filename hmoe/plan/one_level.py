"""The flat mixture that a hierarchy is compared with: as many experts and slots a token."""

from __future__ import annotations

import dataclasses
import math

from hmoe.layer.capacity import exactly
from hmoe.layer.moe import HierarchicalMoE


def one_level(moe: HierarchicalMoE) -> HierarchicalMoE:
    """Merges the levels of a mixture into the first one.

    Its experts are those at the end of the hierarchy, and its capacity factor in training is the
    product of the levels' factors, so that there are as many slots for each token. The router is
    that of the first level.

    Args:
      moe: a mixture of one level or more.

    Returns:
      The mixture of one level; its name and all other settings are those of the first level.
    """
    first = moe.levels[0]
    factors = [
        exactly(level.capacity_factor(train=True, depth=depth))
        for depth, level in enumerate(moe.levels)
    ]
    merged = dataclasses.replace(
        first,
        num_experts=math.prod(level.num_experts for level in moe.levels),
        capacity_factor_train=float(math.prod(factors)),
    )
    return dataclasses.replace(moe, levels=(merged,))
