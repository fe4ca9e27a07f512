"""Auxiliary outputs of a layer: losses, metric sums and bias updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hmoe.compat.stack import mtf, tf
from hmoe.layer import metric_sums
from hmoe.layer.recursion import RoutedLevel
from hmoe.routing import losses
from hmoe.routing.balancing import BiasUpdate


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuxSettings:
    """Settings of a layer and of a call that auxiliary outputs depend on.

    Attributes:
      train: whether the layer is training, so that biases move.
      detail: one of `hmoe.layer.metric_sums.DETAILS`.
      aux_loss_factor: multiplies all balance coefficients.
      router_z_loss_factor: multiplies all z-loss coefficients.
      num_microbatches: the number that losses are divided by.
      num_examples: examples in the whole batch.
    """

    train: bool
    detail: str
    aux_loss_factor: float
    router_z_loss_factor: float
    num_microbatches: int
    num_examples: int


@dataclasses.dataclass
class AuxOutputs:
    """Auxiliary outputs of one call.

    Attributes:
      losses: scalars "<level>/<kind>", already weighted. Training adds their sum.
      sums: metric sums, for `hmoe.layer.metrics.summarize`.
      bias_updates: biases to move after the step.
    """

    losses: dict[str, mtf.Tensor] = dataclasses.field(default_factory=dict)
    sums: dict[str, mtf.Tensor] = dataclasses.field(default_factory=dict)
    bias_updates: list[BiasUpdate] = dataclasses.field(default_factory=list)


def aux_outputs(routed: Sequence[RoutedLevel], settings: AuxSettings) -> AuxOutputs:
    """Computes the auxiliary outputs of a layer.

    Args:
      routed: the levels of the layer after routing, outermost first.
      settings: settings of the layer and of the call.
    """
    outputs = AuxOutputs()
    for each in routed:
        _add_losses(outputs, each, settings)
        _add_metric_sums(outputs, each, settings)
        _add_bias_update(outputs, each, settings)
    if settings.detail != "off":
        outputs.sums[metric_sums.LAYER] = metric_sums.layer_sums(routed)
    return outputs


def _add_losses(outputs: AuxOutputs, routed: RoutedLevel, settings: AuxSettings) -> None:
    """Adds the weighted losses of a level, and the sums that show them."""
    level, scores, importance = routed.level, routed.scores, routed.batch.importance
    pool = _pool(routed, settings)
    full = losses.num_full(importance)
    balance = level.router.balance_loss(
        scores, routed.assignment, importance, pool, level.balance_loss_choices
    )
    coef = settings.aux_loss_factor * level.balance_loss_coef
    found = [
        metric_sums.LossTerm("balance", balance, full, coef),
        metric_sums.LossTerm(
            "z",
            losses.router_z_loss(scores, importance),
            full,
            settings.router_z_loss_factor * level.z_loss_coef,
        ),
    ]
    if level.second_place_loss:
        second = losses.second_place_loss(scores, routed.assignment.choices, importance, pool)
        num_real = losses.num_real(importance)
        found.append(metric_sums.LossTerm("second_place", second, num_real, 0.5 * coef))
    weighted = {
        term.kind: term.loss * (term.factor / settings.num_microbatches)
        for term in found
        if term.factor
    }
    # A layer always has a loss to show and to add, if only a zero.
    weighted = weighted or {"balance": mtf.zeros_like(balance)}
    outputs.losses.update({f"{level.name}/{kind}": loss for kind, loss in weighted.items()})
    outputs.sums[metric_sums.losses_name(level.name)] = metric_sums.loss_sums(found)


def _pool(routed: RoutedLevel, settings: AuxSettings) -> losses.Pool:
    """Returns the tokens that the balance loss of a level is averaged over."""
    level, batch = routed.level, routed.batch
    outer = routed.shape.outer_expert_dims
    if level.balance_loss_over == "group":
        return losses.group_pool(batch.importance, level.balance_loss_mean_over)
    if level.balance_loss_over == "batch":
        return losses.batch_pool(batch.importance, outer, level.balance_loss_mean_over)
    return losses.example_pool(mtf.cast(batch.example, tf.int32), settings.num_examples, outer)


def _add_metric_sums(outputs: AuxOutputs, routed: RoutedLevel, settings: AuxSettings) -> None:
    name = routed.level.name
    if settings.detail == "off":
        return
    outputs.sums[metric_sums.load_name(name)] = metric_sums.load(routed)
    outputs.sums[metric_sums.tokens_name(name)] = metric_sums.token_sums(routed, settings.detail)


def _add_bias_update(outputs: AuxOutputs, routed: RoutedLevel, settings: AuxSettings) -> None:
    scores, load_name = routed.scores, metric_sums.load_name(routed.level.name)
    if not settings.train or scores.bias_update_rate == 0 or scores.balance_bias is None:
        return
    if load_name not in outputs.sums:
        outputs.sums[load_name] = metric_sums.load(routed)
    outputs.bias_updates.append(BiasUpdate(scores.balance_bias, load_name, scores.bias_update_rate))
