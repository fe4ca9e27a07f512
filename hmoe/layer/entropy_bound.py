"""An upper bound on the entropy of a router, from the weights of filled slots.

The entropy itself is measured in full detail alone. The weights are summed in brief detail too, and
a router whose chosen experts have nearly all the weight is one whose entropy is nearly 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hmoe.routing.router import Router


def entropy_at_most(
    tokens: Mapping[str, float], router: Router | None, num_experts: int
) -> float | None:
    """Returns a bound on the mean entropy of the gate over the full tokens that have a slot.

    It is reached where all tokens are full and alike, with one slot each, and all experts but the
    likeliest have the same probability.

    Args:
      tokens: sums over the tokens of a level by name, see `hmoe.layer.metric_sums.TOKEN_FIELDS`.
      router: the router of the level; None if it is unknown.
      num_experts: X, the number of siblings.

    Returns:
      The bound in nats, at most ln X; None if weights do not bound the entropy, or there is no
      such token.
    """
    weight = highest_weight_at_least(tokens)
    if router is None or weight is None:
        return None
    probability = router.highest_probability_at_least(weight, num_experts)
    return None if probability is None else _fano(probability, num_experts)


def highest_weight_at_least(tokens: Mapping[str, float]) -> float | None:
    """Returns a bound on the mean highest weight of the full tokens that have a slot, from below.

    A token's weights sum to 1 at most, so that all but the highest are at most 1/2 each: with m
    slots, its highest weight is at least the sum of the weights there less (m - 1) / 2. That of a
    partial token is 1 at most. All of them are taken to have a slot and as much here, which leaves
    the least to the others.

    Args:
      tokens: see `entropy_at_most`.

    Returns:
      The bound; None if there may be no such token.
    """
    placed = tokens["real"] - tokens["dropped"]
    further_slots = tokens["filled"] - placed
    missing = placed + further_slots / 2 - tokens["confidence"]
    full = placed - (tokens["real"] - tokens["full"])
    # Sums in float32 may be off by a little.
    return 1.0 - max(missing, 0.0) / full if full > 0 else None


def _fano(highest: float, num_experts: int) -> float:
    """Returns the highest mean entropy in nats if the mean highest probability is at least this.

    For one token it is Fano's inequality. The bound is concave in the probability, so that means
    keep it (Jensen), and falls from 1 / X on.
    """
    if highest <= 1 / num_experts:
        return math.log(num_experts)
    others = 1.0 - highest
    if others <= 0.0:
        return 0.0
    binary = -highest * math.log(highest) - others * math.log(others)
    return binary + others * math.log(max(num_experts - 1, 1))
