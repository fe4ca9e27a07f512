"""Reads a mixture layer into the plain numbers that its formulas take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hmoe.experts.feed_forward import FeedForward, FeedForwardExperts, SharedExpert
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
_INSTEAD = "count the graph instead"


def case_of(
    layer: HierarchicalMoE,
    *,
    train: bool,
    on_tpu: bool,
    **call: Any,
) -> LayerCase:
    """Returns the case of a layer in one step.

    Args:
      layer: the layer.
      train: whether it trains.
      on_tpu: whether the mesh is of TPU cores.
      **call: the fields of `LayerCase` that depend on the call and the mesh: sizes of the inputs
        and outputs, mesh, layout, and so on.

    Raises:
      ValueError: the layer has a part that there is no formula for, or the layout does not suit it.
    """
    engine = layer.engine
    if engine == "auto":
        engine = "einsum" if on_tpu else "index"
    return LayerCase(
        levels=tuple(
            _level(level, depth, train, layer) for depth, level in enumerate(layer.levels)
        ),
        experts=_experts(layer.experts),
        shared_expert=None if layer.shared_expert is None else _shared(layer.shared_expert),
        engine=engine,
        metrics=layer.metrics,
        train=train,
        on_tpu=on_tpu,
        **call,
    )


def _level(level: Level, depth: int, train: bool, layer: HierarchicalMoE) -> LevelCase:
    return LevelCase(
        name=level.name,
        num_experts=level.num_experts,
        router=_router(level.name, level.router),
        capacity_factor=level.capacity_factor(train=train, depth=depth),
        group_size=level.group_size,
        examples_per_group=level.examples_per_group,
        min_capacity=level.min_capacity,
        balance_loss_coef=level.balance_loss_coef * layer.aux_loss_factor,
        balance_loss_over=level.balance_loss_over,
        balance_loss_mean_over=level.balance_loss_mean_over,
        z_loss_coef=level.z_loss_coef * layer.router_z_loss_factor,
        second_place_loss=level.second_place_loss,
    )


def _router(level: str, router: Router) -> RouterCase:
    # A subclass may do anything.
    kind = _KINDS.get(type(router))
    if kind is None:
        raise ValueError(
            f"level '{level}': there is no formula for {type(router).__name__}; use a router of"
            f" hmoe, or {_INSTEAD}"
        )
    gate = router.gate
    if gate.word_embeddings is not None:
        raise ValueError(
            f"level '{level}': there is no formula for word_embeddings = {gate.word_embeddings!r};"
            f" set it to None, or {_INSTEAD}"
        )
    chooses: dict[str, Any] = {}
    if isinstance(router, TokenChoiceRouter):
        chooses = {
            "k": router.k,
            "weight_norm": router.weight_norm,
            "retries": router.retries,
            "priority": router.priority,
            "moves_bias": bool(router.bias_update_rate),
        }
    elif isinstance(router, ExpertChoiceRouter):
        chooses = {"softmax_over": router.softmax_over}
    return RouterCase(
        kind=kind,
        gate_function=gate.function,
        gate_bias=gate.use_bias,
        jitter=bool(gate.jitter),
        input_dropout=bool(gate.input_dropout),
        explores=bool(gate.explore_probability),
        **chooses,
    )


def _experts(experts: object) -> FeedForwardCase:
    if type(experts) is not FeedForwardExperts:
        raise ValueError(
            f"there is no formula for experts of {type(experts).__name__}; use"
            f" hmoe.FeedForwardExperts, or {_INSTEAD}"
        )
    if experts.separate:
        raise ValueError(
            f"there is no formula for experts with separate = True; set it to False, or {_INSTEAD}"
        )
    return _feed_forward(experts)


def _shared(shared: object) -> FeedForwardCase:
    if type(shared) is not SharedExpert:
        raise ValueError(
            f"there is no formula for a shared expert of {type(shared).__name__}; use"
            f" hmoe.SharedExpert, or {_INSTEAD}"
        )
    return _feed_forward(shared)


def _feed_forward(layer: FeedForward) -> FeedForwardCase:
    return FeedForwardCase(
        hidden_size=layer.hidden_size,
        activations=layer.activations,
        num_outputs=layer.num_outputs,
        use_bias=layer.use_bias,
        dropout=bool(layer.dropout_rate),
        output_dropout=bool(layer.output_dropout_rate),
    )
