"""Counts the parameters of a layer."""

from __future__ import annotations

from collections.abc import Sequence

from hmoe.experts.feed_forward import FeedForward
from hmoe.layer.level import Level


def num_params(
    levels: Sequence[Level], experts: FeedForward, input_size: int, output_size: int
) -> int:
    """Returns the parameters of the gates and experts of a layer between these depths."""
    gating, num_experts = 0, 1
    for level in levels:
        gating += num_experts * level.router.gate.num_params(input_size, level.num_experts)
        num_experts *= level.num_experts
    return gating + num_experts * experts.num_params(input_size, output_size)


def num_active_params(
    levels: Sequence[Level], experts: FeedForward, input_size: int, output_size: int
) -> int:
    """Returns the parameters of gates and experts that one token can use at most.

    A token meets one gating matrix at the first level and one for each destination that it reaches
    further in. With 2 x 2 choices it reaches 3 experts, since a second choice goes to one expert
    only. Where experts choose, it may reach all.
    """
    gating, reached = 0, 1
    for level in levels:
        gating += reached * level.router.gate.num_params(input_size, level.num_experts)
        reached = _reached_further(reached, level)
    return gating + reached * experts.num_params(input_size, output_size)


def _reached_further(reached: int, level: Level) -> int:
    """Returns how many destinations a token can have after a level, from those before it."""
    if level.router.max_choices is None:
        return reached * level.num_experts
    # Later choices are partial tokens further in: they get one expert each.
    return reached + level.router.num_choices(level.num_experts) - 1
