"""Puts a mixture layer into the plain numbers that the closed formulas take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hmoe.experts.feed_forward import FeedForwardExperts, SharedExpert
from hmoe.layer.level import Level
from hmoe.layer.moe import HierarchicalMoE
from hmoe.plan.layer_case import (
    EXPERT_CHOICE,
    SWITCH,
    TOP_K,
    UNIFORM,
    FeedForwardCase,
    LayerCase,
    LevelCase,
    RouterCase,
)
from hmoe.routing.expert_choice import ExpertChoiceRouter
from hmoe.routing.router import Router
from hmoe.routing.switch import SwitchRouter
from hmoe.routing.token_choice import TokenChoiceRouter
from hmoe.routing.top_k import TopKRouter
from hmoe.routing.uniform import UniformRouter

_KINDS: Mapping[type, str] = {
    TopKRouter: TOP_K,
    SwitchRouter: SWITCH,
    UniformRouter: UNIFORM,
    ExpertChoiceRouter: EXPERT_CHOICE,
}


class Call(NamedTuple):
    """One call of a layer in a training step.

    Attributes:
      d_model: depth of the inputs.
      output_dim: depth of the outputs.
      outer_batch: size of the outer batch.
      batch: size of the batch.
      length: tokens of a sequence.
      activation_bytes: bytes of an activation.
      weight_bytes: bytes of a weight on a device.
      microbatches: such calls in a step.
    """

    d_model: int
    output_dim: int
    outer_batch: int
    batch: int
    length: int
    activation_bytes: int
    weight_bytes: int
    microbatches: int


def layer_case(
    moe: HierarchicalMoE,
    call: Call,
    mesh: Mapping[str, int],
    layout: Mapping[str, str],
    *,
    on_tpus: bool,
) -> LayerCase:
    """Describes a layer of a T5 in training.

    Args:
      moe: the mixture.
      call: its sizes.
      mesh: size of each mesh axis.
      layout: the mesh axis of each dimension that is split.
      on_tpus: whether it is counted for TPUs.

    Raises:
      ValueError: the layer has something that no formula covers.
    """
    auto = "einsum" if on_tpus else "index"
    shared = moe.shared_expert
    return LayerCase(
        levels=tuple(_level(level, depth) for depth, level in enumerate(moe.levels)),
        experts=_feed_forward(moe.experts),
        shared_expert=None if shared is None else _feed_forward(shared),
        d_model=call.d_model,
        output_dim=call.output_dim,
        outer_batch=call.outer_batch,
        batch=call.batch,
        length=call.length,
        mesh=mesh,
        layout=layout,
        engine=auto if moe.engine == "auto" else moe.engine,
        activation_bytes=call.activation_bytes,
        weight_bytes=call.weight_bytes,
        metrics=moe.metrics,
        on_tpu=on_tpus,
        num_microbatches=call.microbatches,
    )


def _level(level: Level, depth: int) -> LevelCase:
    return LevelCase(
        name=level.name,
        num_experts=level.num_experts,
        router=_router(level.name, level.router),
        capacity_factor=level.capacity_factor(train=True, depth=depth),
        group_size=level.group_size,
        examples_per_group=level.examples_per_group,
        min_capacity=level.min_capacity,
        balance_loss_coef=level.balance_loss_coef,
        balance_loss_over=level.balance_loss_over,
        balance_loss_mean_over=level.balance_loss_mean_over,
        z_loss_coef=level.z_loss_coef,
        second_place_loss=level.second_place_loss,
    )


def _router(level: str, router: Router) -> RouterCase:
    kind = _KINDS.get(type(router))
    if kind is None:
        raise ValueError(f"level '{level}': there is no formula for {type(router).__name__}")
    gate = router.gate
    if gate.word_embeddings:
        raise ValueError(f"level '{level}': there is no formula for hmoe.Gate.word_embeddings")
    chosen = router if isinstance(router, TokenChoiceRouter) else None
    return RouterCase(
        kind=kind,
        k=chosen.k if chosen else 1,
        weight_norm=chosen.weight_norm if chosen else None,
        retries=chosen.retries if chosen else 0,
        priority=chosen.priority if chosen else False,
        moves_bias=bool(chosen and chosen.bias_update_rate),
        softmax_over=getattr(router, "softmax_over", "experts"),
        gate_function=gate.function,
        gate_bias=gate.use_bias,
        jitter=gate.jitter > 0,
        input_dropout=gate.input_dropout > 0,
        explores=gate.explore_probability > 0,
    )


def _feed_forward(experts: FeedForwardExperts | SharedExpert) -> FeedForwardCase:
    if not isinstance(experts, (FeedForwardExperts, SharedExpert)):
        raise ValueError(f"there is no formula for experts of class {type(experts).__name__}")
    if getattr(experts, "separate", False):
        raise ValueError("there is no formula for hmoe.FeedForwardExperts.separate = True")
    names = experts.activation
    return FeedForwardCase(
        hidden_size=experts.hidden_size,
        activations=(names,) if isinstance(names, str) else tuple(names),
        num_outputs=getattr(experts, "num_outputs", 1),
        use_bias=experts.use_bias,
        dropout=experts.dropout_rate > 0,
        output_dropout=experts.output_dropout_rate > 0,
    )
