"""Losses that keep a router healthy: free functions of scores and choices.

Dimensions: "..." are groups and outer experts, S the tokens of a group, K choices,
X experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import Local, indicator, log_sum_exp
from hmoe.routing.assignment import Choices
from hmoe.routing.gate import Scores

_TINY = 1e-9

POOLS = ("group", "example", "batch")
MEANS = ("tokens", "positions")
COUNTED_CHOICES = ("first", "all")


@dataclasses.dataclass(frozen=True)
class Pool:
    """The tokens over which load and probabilities are averaged before they are multiplied.

    Attributes:
      dims: what tells one pool from another.
      members: tensors that are 1 where a token belongs to a pool; none where `dims` are
        dimensions of the tokens already.
      num_positions: positions of a pool, padding and empty slots included, by which its
        sums are divided; pools weigh alike. None: sums are divided by the tokens that are
        counted, and pools weigh as much as they have of them.
    """

    dims: list[mtf.Dimension]
    members: list[mtf.Tensor]
    num_positions: int | None

    def sum(self, tensors: list[mtf.Tensor], dims: list[mtf.Dimension]) -> mtf.Tensor:
        """[*self.dims, *dims]: the product of the tensors, summed over the tokens of each pool."""
        return mtf.einsum(tensors + self.members, mtf.Shape(self.dims + dims))


def group_pool(importance: mtf.Tensor, mean_over: str = "tokens") -> Pool:
    """Each group for itself (GShard, algorithm 1).

    Args:
      importance: float32 [..., S].
      mean_over: one of `MEANS`.
    """
    size = importance.shape.dims[-1].size
    return Pool(importance.shape.dims[:-1], [], size if mean_over == "positions" else None)


def batch_pool(
    importance: mtf.Tensor, outer_expert_dims: list[mtf.Dimension], mean_over: str = "tokens"
) -> Pool:
    """All groups of all devices, for each family of experts that compete.

    Args:
      importance: float32 [*outer, ..., S].
      outer_expert_dims: experts of the levels above.
      mean_over: one of `MEANS`.
    """
    size = importance.shape.size // mtf.Shape(outer_expert_dims).size
    return Pool(outer_expert_dims, [], size if mean_over == "positions" else None)


def example_pool(
    example: mtf.Tensor, num_examples: int, outer_expert_dims: list[mtf.Dimension]
) -> Pool:
    """Each example for itself, for each family of experts that compete.

    Args:
      example: int32 [..., S], the number of the example that a token is of.
      num_examples: of the batch.
      outer_expert_dims: experts of the levels above.
    """
    dim = mtf.Dimension("example", num_examples)
    return Pool([*outer_expert_dims, dim], [mtf.one_hot(example, dim, dtype=tf.float32)], None)


def balance_loss(
    scores: Scores, choices: Choices, importance: mtf.Tensor, pool: Pool, counted: str = "first"
) -> mtf.Tensor:
    """X^2 * mean(share of the pool choosing an expert * mean probability of it).

    1 when both are uniform, whatever the padding and however many slots are empty. Full
    tokens count (GShard, equation 4; Shazeer et al. 2017, equation 6, has another form of
    it; of examples and batch: OLMo-core). Over positions, as in Mesh TensorFlow, it is
    smaller by the square of the share of full tokens.

    Args:
      scores: of one level.
      choices: of the same level; demand counts, before policy and capacity.
      importance: float32 [..., S].
      pool: what is averaged over.
      counted: "first" counts first choices, "all" all of them, divided by their number.

    Returns:
      A scalar, float32. The gradient flows through the probabilities alone.
    """
    count = {"first": _first_choices, "all": _all_choices}[counted]
    asked = _of_choices(count, choices, importance)
    return _load_times_probability(scores.shares, choices, asked, _full(importance), scores, pool)


def second_place_loss(
    scores: Scores, choices: Choices, importance: mtf.Tensor, pool: Pool
) -> mtf.Tensor:
    """The balance loss of second choices, on the probabilities that the first left over.

    A partial token's only expert counts as a second choice: it is placed with them.
    Padding counts nowhere (upstream's counts it in the probabilities).

    Args:
      scores: of one level.
      choices: of the same level.
      importance: float32 [..., S].
      pool: what is averaged over.

    Returns:
      A scalar, float32.
    """
    first = choices.by_expert(_of_choices(_first_choices, choices, importance))
    left = scores.shares * (1.0 - first)
    left /= mtf.reduce_sum(left, reduced_dim=scores.experts_dim) + _TINY
    real = _real(importance)
    asked = _of_choices(_second_choices, choices, importance)
    return _load_times_probability(left, choices, asked, real, scores, pool)


def even_attention_loss(
    affinity: mtf.Tensor, scores: Scores, importance: mtf.Tensor, mean_over: str = "tokens"
) -> mtf.Tensor:
    """How unevenly experts take the tokens of a group: 1 when all tokens are taken alike.

    Mean over groups of n * sum over n tokens of (mean affinity over experts)^2. Over tokens
    these are the real ones, and groups weigh as much as they have of them. Over positions
    they are the full ones, and groups weigh alike (Mesh TensorFlow's expert_selection).

    Args:
      affinity: float32 [..., S, X], summing to one over S.
      scores: of one level.
      importance: float32 [..., S].
      mean_over: one of `MEANS`.

    Returns:
      A scalar, float32.
    """
    counted = _full(importance) if mean_over == "positions" else _real(importance)
    number = mtf.reduce_sum(counted, reduced_dim=scores.tokens_dim)
    attention = mtf.reduce_mean(affinity, reduced_dim=scores.experts_dim) * counted
    per_group = mtf.reduce_sum(mtf.square(attention), reduced_dim=scores.tokens_dim) * number
    if mean_over == "positions":
        return mtf.reduce_mean(per_group)
    return mtf.reduce_sum(per_group * number) / mtf.maximum(mtf.reduce_sum(number), 1.0)


def num_full(importance: mtf.Tensor) -> mtf.Tensor:
    """float32 []: tokens of importance 1, which balance and z-loss average over."""
    return mtf.reduce_sum(_full(importance))


def num_real(importance: mtf.Tensor) -> mtf.Tensor:
    """float32 []: tokens of importance above 0, which the second-place loss averages over."""
    return mtf.reduce_sum(_real(importance))


def router_z_loss(scores: Scores, importance: mtf.Tensor) -> mtf.Tensor:
    """Mean over full tokens of logsumexp(logits)^2 (ST-MoE, equation 5).

    Args:
      scores: of one level.
      importance: float32 [..., S].

    Returns:
      A scalar, float32; 0 if there is no full token.
    """
    full, log_z = _full(importance), log_sum_exp(scores.logits)
    squares = mtf.einsum([mtf.square(log_z), full], mtf.Shape([]))
    return squares / mtf.maximum(mtf.reduce_sum(full), 1.0)


def _full(importance: mtf.Tensor) -> mtf.Tensor:
    """float32 [..., S]: 1 for a full token."""
    return indicator(tf.equal, importance, 1.0)


def _real(importance: mtf.Tensor) -> mtf.Tensor:
    """float32 [..., S]: 1 for a token, 0 for padding."""
    return indicator(tf.greater, importance, 0.0)


def _of_choices(function: Callable, choices: Choices, importance: mtf.Tensor) -> mtf.Tensor:
    """float32 [..., S, K]: what a function below makes of the choices."""
    return mtf.slicewise(
        Local(function),
        [choices.rank, choices.demand, importance],
        output_shape=choices.demand.shape,
        output_dtype=tf.float32,
        splittable_dims=importance.shape.dims,
        grad_function=0,
        name="asked",
    )


# Of rank [..., S, K], demand [..., S, K] and importance [..., S].


def _first_choices(rank: tf.Tensor, demand: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    counts = tf.equal(rank, 0) & tf.equal(importance, 1.0)[..., None]
    return tf.where_v2(counts, demand, 0.0)


def _all_choices(rank: tf.Tensor, demand: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    del rank
    # Places of a full token's choices; a round for partial tokens alone is none.
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
    """The loss of `probabilities` [..., S, X] and choices `asked` for [..., S, K].

    `counted` [..., S] is 1 for the tokens whose probabilities count.
    """
    experts = scores.experts_dim
    load = pool.sum([choices.by_expert(asked)], [experts])
    probability = pool.sum([probabilities, counted], [experts])
    if pool.num_positions is not None:
        # X^2 times the mean over pools and X experts of two shares of the positions.
        num_pools = mtf.Shape(pool.dims).size
        scale = experts.size / (num_pools * float(pool.num_positions) ** 2)
        return mtf.einsum([load, probability], mtf.Shape([])) * scale
    number = pool.sum([counted], [])
    per_pool = mtf.reduce_sum(load * probability, reduced_dim=experts) / mtf.maximum(number, 1.0)
    return mtf.reduce_sum(per_pool) * float(experts.size) / mtf.maximum(mtf.reduce_sum(number), 1.0)
