"""Losses that keep a router balanced and its logits small: functions of scores and choices.

Dimensions: "..." are groups and outer experts, S the tokens of a group, K choices, X experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import indicator
from hmoe.routing.assignment import Choices
from hmoe.routing.scores import Scores

_TINY = 1e-9

POOLS = ("group", "example", "batch")
MEANS = ("tokens", "positions")
COUNTED_CHOICES = ("first", "all")


@dataclasses.dataclass(frozen=True)
class Pool:
    """The tokens over which load and probabilities are averaged before they are multiplied.

    Attributes:
      dims: the dimensions that distinguish pools.
      members: tensors that are 1 where a token belongs to a pool; none where `dims` are dimensions
        of the tokens already.
      num_positions: positions of a pool, padding and empty slots included, that its sums are
        divided by; all pools have the same weight. None: sums are divided by the tokens that count,
        and the weight of a pool is the number of such tokens in it.
    """

    dims: list[mtf.Dimension]
    members: list[mtf.Tensor]
    num_positions: int | None

    def sum(self, tensors: list[mtf.Tensor], dims: list[mtf.Dimension]) -> mtf.Tensor:
        """Returns [*self.dims, *dims], a product of tensors summed over the tokens of each pool."""
        # [..., S, (X)] each -> [*pools, *dims]
        return mtf.einsum(tensors + self.members, mtf.Shape(self.dims + dims))


def group_pool(importance: mtf.Tensor, mean_over: str) -> Pool:
    """Returns one pool for each group (GShard, algorithm 1).

    Args:
      importance: float32 [..., S].
      mean_over: one of `MEANS`.
    """
    size = importance.shape.dims[-1].size
    return Pool(importance.shape.dims[:-1], [], size if mean_over == "positions" else None)


def batch_pool(
    importance: mtf.Tensor, outer_expert_dims: list[mtf.Dimension], mean_over: str
) -> Pool:
    """Returns one pool of all groups of all devices for each set of sibling experts.

    Args:
      importance: float32 [*outer, ..., S].
      outer_expert_dims: the experts of the levels above.
      mean_over: one of `MEANS`.
    """
    size = importance.shape.size // mtf.Shape(outer_expert_dims).size
    return Pool(outer_expert_dims, [], size if mean_over == "positions" else None)


def example_pool(
    example: mtf.Tensor, num_examples: int, outer_expert_dims: list[mtf.Dimension]
) -> Pool:
    """Returns one pool for each example and each set of sibling experts.

    Args:
      example: int32 [..., S], the number of the example that each token belongs to.
      num_examples: examples in the batch.
      outer_expert_dims: the experts of the levels above.
    """
    dim = mtf.Dimension("example", num_examples)
    return Pool([*outer_expert_dims, dim], [mtf.one_hot(example, dim, dtype=tf.float32)], None)


def balance_loss(
    scores: Scores, choices: Choices, importance: mtf.Tensor, pool: Pool, counted: str
) -> mtf.Tensor:
    """Returns X^2 * mean(share of a pool that chose an expert * mean probability of the expert).

    The loss is 1 when both are uniform, whatever the padding and however many slots are empty. Only
    full tokens count (GShard, equation 4; Shazeer et al. 2017, equation 6, has another form of it;
    over examples and batches: OLMo-core). Averaged over positions, as in Mesh TensorFlow, it is
    smaller by the square of the share of full tokens.

    Args:
      scores: the scores of one level.
      choices: the choices of that level; demand counts, before policy and capacity.
      importance: float32 [..., S].
      pool: the tokens that are averaged over.
      counted: "first" counts first choices, "all" all of them, divided by their number.

    Returns:
      float32 []. The gradient flows through the probabilities alone.
    """
    count = {"first": _first_choices, "all": _all_choices}[counted]
    asked = _count_choices(count, choices, importance)
    return _load_times_probability(scores.shares, choices, asked, _full(importance), scores, pool)


def second_place_loss(
    scores: Scores, choices: Choices, importance: mtf.Tensor, pool: Pool
) -> mtf.Tensor:
    """Returns the balance loss of second choices, on the probabilities that first choices left.

    A partial token's only expert counts as a second choice, since it is placed with them. Padding
    counts nowhere (upstream counts it in the probabilities).

    Args:
      scores: the scores of one level.
      choices: the choices of that level.
      importance: float32 [..., S].
      pool: the tokens that are averaged over.

    Returns:
      float32 [].
    """
    first = choices.by_expert(_count_choices(_first_choices, choices, importance))
    left = scores.shares * (1.0 - first)
    left /= mtf.reduce_sum(left, reduced_dim=scores.experts_dim) + _TINY
    real = _real(importance)
    asked = _count_choices(_second_choices, choices, importance)
    return _load_times_probability(left, choices, asked, real, scores, pool)


def even_attention_loss(
    affinity: mtf.Tensor, scores: Scores, importance: mtf.Tensor, mean_over: str
) -> mtf.Tensor:
    """Returns how unevenly experts take the tokens of a group: 1 when all are taken alike.

    This is the mean over groups of n * sum over n tokens of (mean affinity over experts)^2. With
    "tokens", the n tokens are the real ones, and the weight of a group is their number. With
    "positions", they are the full ones, and all groups have the same weight (Mesh TensorFlow's
    expert_selection).

    Args:
      affinity: float32 [..., S, X], summing to one over S.
      scores: the scores of one level.
      importance: float32 [..., S].
      mean_over: one of `MEANS`.

    Returns:
      float32 [].
    """
    counted = _full(importance) if mean_over == "positions" else _real(importance)
    number = mtf.reduce_sum(counted, reduced_dim=scores.tokens_dim)
    attention = mtf.reduce_mean(affinity, reduced_dim=scores.experts_dim) * counted
    per_group = mtf.reduce_sum(mtf.square(attention), reduced_dim=scores.tokens_dim) * number
    if mean_over == "positions":
        return mtf.reduce_mean(per_group)
    return mtf.reduce_sum(per_group * number) / mtf.maximum(mtf.reduce_sum(number), 1.0)


def num_full(importance: mtf.Tensor) -> mtf.Tensor:
    """Returns float32 [], the number of full tokens, which balance loss and z-loss average over."""
    return mtf.reduce_sum(_full(importance))


def num_real(importance: mtf.Tensor) -> mtf.Tensor:
    """Returns float32 [], the number of real tokens, which the second-place loss averages over."""
    return mtf.reduce_sum(_real(importance))


def router_z_loss(scores: Scores, importance: mtf.Tensor) -> mtf.Tensor:
    """Returns the mean over full tokens of logsumexp(logits)^2 (ST-MoE, equation 5).

    Args:
      scores: the scores of one level.
      importance: float32 [..., S].

    Returns:
      float32 []; 0 if there is no full token.
    """
    # [..., S, X] -> [..., S]
    full, log_z = _full(importance), mtf.reduce_logsumexp(scores.logits, scores.experts_dim)
    # [..., S], [..., S] -> []
    squares = mtf.einsum([mtf.square(log_z), full], mtf.Shape([]))
    return squares / mtf.maximum(mtf.reduce_sum(full), 1.0)


def _full(importance: mtf.Tensor) -> mtf.Tensor:
    """Returns float32 [..., S], 1 for full tokens."""
    return indicator(tf.equal, importance, 1.0)


def _real(importance: mtf.Tensor) -> mtf.Tensor:
    """Returns float32 [..., S], 1 for real tokens, 0 for padding."""
    return indicator(tf.greater, importance, 0.0)


def _count_choices(function: Callable, choices: Choices, importance: mtf.Tensor) -> mtf.Tensor:
    """Returns float32 [..., S, K], how much each choice counts by one of the functions below."""
    return mtf.slicewise(
        function,
        [choices.rank, choices.demand, importance],
        output_shape=choices.demand.shape,
        output_dtype=tf.float32,
        splittable_dims=importance.shape.dims,
        grad_function=0,
        name="counted_choices",
    )


# Each takes rank [..., S, K], demand [..., S, K] and importance [..., S].


def _first_choices(rank: tf.Tensor, demand: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    counts = tf.equal(rank, 0) & tf.equal(importance, 1.0)[..., None]
    return tf.where_v2(counts, demand, 0.0)


def _all_choices(rank: tf.Tensor, demand: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    del rank
    # A round that holds partial tokens alone is no choice of a full token.
    share = demand / tf.maximum(tf.reduce_sum(demand, axis=-1, keepdims=True), 1.0)
    return tf.where_v2(tf.equal(importance, 1.0)[..., None], share, 0.0)


def _second_choices(rank: tf.Tensor, demand: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    # A partial token's second choice is its first.
    second = tf.cast(tf.equal(importance, 1.0), tf.int32)[..., None]
    return tf.where_v2(tf.equal(rank, second) & (importance > 0)[..., None], demand, 0.0)


def _load_times_probability(
    probabilities: mtf.Tensor,
    choices: Choices,
    asked: mtf.Tensor,
    counted: mtf.Tensor,
    scores: Scores,
    pool: Pool,
) -> mtf.Tensor:
    """Returns float32 [], the balance loss of probabilities and choices.

    Args:
      probabilities: float32 [..., S, X].
      choices: the choices of the level.
      asked: float32 [..., S, K], how much each choice counts.
      counted: float32 [..., S], 1 for the tokens whose probabilities count.
      scores: the scores of the level.
      pool: the tokens that are averaged over.
    """
    experts = scores.experts_dim
    # [..., S, X] -> [*pools, X] each
    load = pool.sum([choices.by_expert(asked)], [experts])
    probability = pool.sum([probabilities, counted], [experts])
    if pool.num_positions is not None:
        # X^2 times the mean over pools and X experts of two shares of the positions.
        num_pools = mtf.Shape(pool.dims).size
        scale = experts.size / (num_pools * float(pool.num_positions) ** 2)
        # [*pools, X], [*pools, X] -> []
        return mtf.einsum([load, probability], mtf.Shape([])) * scale
    number = pool.sum([counted], [])
    per_pool = mtf.reduce_sum(load * probability, reduced_dim=experts) / mtf.maximum(number, 1.0)
    return mtf.reduce_sum(per_pool) * float(experts.size) / mtf.maximum(mtf.reduce_sum(number), 1.0)
