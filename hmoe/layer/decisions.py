"""The decisions of a layer's routers as tensors, for traces."""

from __future__ import annotations

from hmoe.compat.stack import mtf
from hmoe.layer.recursion import RoutedLevel


def decisions(routed: RoutedLevel) -> dict[str, mtf.Tensor]:
    """Returns what was decided at one level.

    Only what is lowered costs anything, and nothing but a trace asks for these.

    Args:
      routed: the level, after routing.

    Returns:
      By the names that `hmoe.analysis.decisions` reads, with the dimensions [*leading, G, S, K] of
      the level's choices:
        "chosen": int32, the chosen experts.
        "rank": int32, 0 for a token's best expert.
        "demand": float32, 1 where there is a choice.
        "wanted": float32, 1 where the policy uses it.
        "weight": float32, its weight before capacity.
        "went": int32, the expert where it went.
        "position": int32, the slot there, or -1.
      And "importance": float32 [*leading, G, S], 0 for padding and empty slots; "preferences":
      float32 [*leading, G, S, X], what was chosen by.
    """
    assignment, choices = routed.assignment, routed.assignment.choices
    return {
        "chosen": choices.expert,
        "rank": choices.rank,
        "demand": choices.demand,
        "wanted": choices.wanted,
        "weight": choices.weight,
        "went": assignment.expert,
        "position": assignment.position,
        "importance": routed.batch.importance,
        "preferences": routed.scores.preferences,
    }
