"""Weighing where tokens choose experts: probabilities of choices, their norm, and the balance bias.

Dimensions: S tokens of a group, K choices of a token, X experts; "..." stands for the dimensions of
groups and of outer experts.
"""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf
from hmoe.mesh.layout import tensor_order
from hmoe.mesh.local_ops import indicator
from hmoe.routing.context import RoutingContext
from hmoe.routing.scores import Scores

# Keeps a weight finite where every chosen probability has rounded to 0.
_TINY = 1e-9


def weigh(
    scores: Scores,
    expert: mtf.Tensor,
    demand: mtf.Tensor,
    importance: mtf.Tensor,
    p: float | None,
) -> tuple[mtf.Tensor, mtf.Tensor | None]:
    """Weighs choices by the probabilities of their experts.

    Args:
      scores: the scores of one level.
      expert: int32 [..., S, K], the chosen experts.
      demand: float32 [..., S, K], 1 where there is a choice.
      importance: float32 [..., S].
      p: the p-norm over the choices of a token that weights are divided by; None: they are not.

    Returns:
      Weights float32 [..., S, K], 0 where there is no demand; and the norm [..., S], or None. A
      partial token's only weight is exactly 1 where weights are divided.
    """
    chosen = probabilities_of(scores, expert, demand)
    if p is None:
        return chosen, None
    norm = _norm(chosen, demand, p)
    return _divided(chosen, norm, demand, importance), norm


def first_probability(scores: Scores, expert: mtf.Tensor) -> mtf.Tensor:
    """Returns float32 [..., S], the probability of the first of the experts [..., S, K].

    The result has no gradient.
    """
    values = mtf.stop_gradient(probabilities_of(scores, expert))
    choice = values.shape.dims[-1]
    # [..., S, K] -> [..., S, 1] -> [..., S]
    return mtf.reshape(mtf.slice(values, 0, 1, choice.name), mtf.Shape(values.shape.dims[:-1]))


def balance_bias(mesh: mtf.Mesh, context: RoutingContext) -> mtf.Tensor:
    """Returns the variable `<scope>/balance_bias`, float32 [*outer experts, X]."""
    with tf.variable_scope(context.variable_scope):
        # In float32 whatever weights are saved as: steps may be far below 1 / 256.
        return mtf.get_variable(
            mesh,
            "balance_bias",
            mtf.Shape([*tensor_order(context.outer_expert_dims), context.experts_dim]),
            dtype=mtf.VariableDType(tf.float32, tf.float32, tf.float32),
            initializer=tf.zeros_initializer(),
            trainable=False,
        )


def probabilities_of(
    scores: Scores, expert: mtf.Tensor, demand: mtf.Tensor | None = None
) -> mtf.Tensor:
    """Returns float32 [..., S, K]: the probability of each expert, times the demand if given."""
    # [..., S, K] -> [..., S, K, X]
    one_hot = mtf.one_hot(expert, scores.experts_dim, dtype=tf.float32)
    factors = [one_hot, scores.probabilities, *([] if demand is None else [demand])]
    # [..., S, K, X], [..., S, X], [..., S, K] -> [..., S, K]
    return mtf.einsum(factors, expert.shape)


def _norm(chosen: mtf.Tensor, demand: mtf.Tensor, p: float) -> mtf.Tensor:
    """Returns float32 [..., S], the p-norm of the probabilities [..., S, K] that were chosen."""
    choice_dim = chosen.shape.dims[-1]
    if p == 1.0:
        return mtf.reduce_sum(chosen, reduced_dim=choice_dim) + _TINY
    # Powers of small numbers vanish. Measured in the largest, one of the numbers is 1; the norm
    # does not depend on this unit, so neither does its gradient.
    largest = mtf.stop_gradient(mtf.reduce_max(chosen, reduced_dim=choice_dim)) + _TINY
    # A power has no finite derivative at 0, where nothing was chosen.
    power = mtf.pow(mtf.maximum(chosen / largest, _TINY), p) * demand
    total = mtf.maximum(mtf.reduce_sum(power, reduced_dim=choice_dim), _TINY)
    # Small powers of nothing vanish too, and dividing by them has no finite derivative.
    return mtf.maximum(largest * mtf.pow(total, 1.0 / p), _TINY)


def _divided(
    chosen: mtf.Tensor, norm: mtf.Tensor, demand: mtf.Tensor, importance: mtf.Tensor
) -> mtf.Tensor:
    """Divides probabilities [..., S, K] by their norm; a partial token's only weight is exactly 1.

    Dividing a probability by itself would leave a gradient of rounding errors, which an optimizer
    that scales gradients blows up.
    """
    # [..., S]: 1 where the weight is divided.
    full = indicator(tf.greater_equal, importance, 1.0)
    # [..., S, K], [..., S] -> [..., S, K]
    return chosen / norm * full + demand * (1.0 - full)
