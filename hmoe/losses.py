"""Losses that keep a router healthy: free functions of scores and choices.

Dimensions: "..." are groups and outer experts, S the tokens of a group, K choices,
X experts.
"""
from __future__ import annotations

from hmoe.assignment import Choices
from hmoe.compat.stack import mtf, tf
from hmoe.routers.base import Scores

_TINY = 1e-9


def balance_loss(scores: Scores, choices: Choices, importance: mtf.Tensor) -> mtf.Tensor:
    """X^2 * mean(fraction of the group chosen first * mean probability).

    1 when both are uniform. Full tokens count; the denominator is the size of the
    group, empty places included (GShard, equation 4; Shazeer et al. 2017, equation
    6, has another form of it).

    Args:
      scores: of one level.
      choices: of the same level; demand counts, before policy and capacity.
      importance: float32 [..., S].

    Returns:
      A scalar, float32. The gradient flows through the probabilities alone.
    """
    full = _full(importance)
    chosen = _demand_of_rank(choices, full, 0)
    return _load_times_probability(scores.probabilities * full, chosen, scores)


def second_place_loss(scores: Scores, choices: Choices, importance: mtf.Tensor) -> mtf.Tensor:
    """The balance loss of second choices, on the probabilities that the first left over.

    A partial token's only expert counts as a second choice: it is placed with them.
    Padding counts nowhere (upstream's counts it in the probabilities).

    Args:
      scores: of one level.
      choices: of the same level.
      importance: float32 [..., S].

    Returns:
      A scalar, float32.
    """
    full = _full(importance)
    real = mtf.cast(mtf.greater(importance, 0.0), tf.float32)
    first = mtf.einsum([choices.one_hot, _of_rank(choices, 0) * choices.demand * full],
                       scores.probabilities.shape)
    left = scores.probabilities * (1.0 - first)
    left /= mtf.reduce_sum(left, reduced_dim=scores.experts_dim) + _TINY
    chosen = _demand_of_rank(choices, full, 1) + _demand_of_rank(choices, real - full, 0)
    return _load_times_probability(left * real, chosen, scores)


def router_z_loss(scores: Scores, importance: mtf.Tensor) -> mtf.Tensor:
    """Mean over full tokens of logsumexp(logits)^2 (ST-MoE, equation 5).

    Args:
      scores: of one level.
      importance: float32 [..., S].

    Returns:
      A scalar, float32; 0 if there is no full token.
    """
    full = _full(importance)
    log_z = mtf.reduce_logsumexp(scores.logits, scores.experts_dim)
    return mtf.reduce_sum(mtf.square(log_z) * full) / mtf.maximum(mtf.reduce_sum(full), 1.0)


def _full(importance: mtf.Tensor) -> mtf.Tensor:
    """float32 [..., S]: 1 for a full token."""
    return mtf.cast(mtf.equal(importance, 1.0), tf.float32)


def _of_rank(choices: Choices, rank: int) -> mtf.Tensor:
    return mtf.cast(mtf.equal(choices.rank, rank), tf.float32)


def _demand_of_rank(choices: Choices, tokens: mtf.Tensor, rank: int) -> mtf.Tensor:
    """float32 [..., X]: how many of `tokens` [..., S] have each expert as choice `rank`."""
    asked = choices.demand * _of_rank(choices, rank) * tokens
    groups = choices.expert.shape.dims[:-2]
    return mtf.einsum([choices.one_hot, asked], mtf.Shape(groups + [choices.experts_dim]))


def _load_times_probability(
    probabilities: mtf.Tensor, chosen: mtf.Tensor, scores: Scores
) -> mtf.Tensor:
    size = scores.tokens_dim.size
    mean_probability = mtf.reduce_mean(probabilities, reduced_dim=scores.tokens_dim)
    fraction = chosen / float(size)
    return mtf.reduce_mean(mean_probability * fraction) * float(scores.experts_dim.size ** 2)
