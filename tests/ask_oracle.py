"""Asks the loop oracle in numpy about a layer of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import hmoe
from tests import reference

# By whether the layer trains, of a level at each depth.
DEFAULT_CAPACITY_FACTORS = {True: (1.25, 1.0, 1.0), False: (2.0, 1.0, 1.0)}


def reference_of(
    moe: hmoe.HierarchicalMoE, weights: dict[str, np.ndarray], train: bool = True, **more: Any
) -> reference.Reference:
    """Returns the oracle of a layer, with the same weights."""
    shared = moe.shared_expert.activations if moe.shared_expert else None
    return reference.Reference(
        [spec_of(level, depth, train) for depth, level in enumerate(moe.levels)],
        weights,
        moe.experts.activations,
        shared_activations=shared,
        outputs=moe.experts.output_names,
        **more,
    )


def spec_of(level: hmoe.Level, depth: int, train: bool) -> reference.LevelSpec:
    """Returns the oracle's description of a level."""
    factor = level.capacity_factor_train if train else level.capacity_factor_eval
    return reference.LevelSpec(
        name=level.name,
        num_experts=level.num_experts,
        group_size=level.group_size,
        capacity_factor=DEFAULT_CAPACITY_FACTORS[train][depth] if factor is None else factor,
        min_capacity=level.min_capacity,
        balance_coef=level.balance_loss_coef,
        z_coef=level.z_loss_coef,
        second_place=level.second_place_loss,
        balance_over=level.balance_loss_over,
        balance_mean_over=level.balance_loss_mean_over,
        balance_choices=level.balance_loss_choices,
        examples_per_group=level.examples_per_group,
        gate=_gate_spec(level.router.gate, train),
        **_router_spec(level.router, train),
    )


def _gate_spec(gate: hmoe.Gate, train: bool) -> reference.GateSpec:
    spec = reference.GateSpec(function=gate.function, word_embeddings=gate.word_embeddings)
    if train:
        spec = dataclasses.replace(
            spec,
            jitter=gate.jitter,
            input_dropout=gate.input_dropout,
            explore_probability=gate.explore_probability,
            explore_temperature=gate.explore_temperature,
        )
    return spec


def _router_spec(router: hmoe.Router, train: bool) -> dict[str, Any]:
    """Returns the fields of a `LevelSpec` that come from the router."""
    always = dict(k=1, policy="all", threshold=1.0, weight_norm=None)
    if isinstance(router, hmoe.TopKRouter):
        return dict(
            k=router.k,
            policy=router.policy_train if train else router.policy_eval,
            threshold=router.threshold_train if train else router.threshold_eval,
            weight_norm=router.weight_norm,
            priority=router.priority,
            retries=router.retries,
        )
    if isinstance(router, hmoe.SwitchRouter):
        return dict(
            always,
            router="switch",
            selection=router.selection_train if train else router.selection_eval,
            temperature=router.temperature,
            priority=router.priority,
            retries=router.retries,
        )
    if isinstance(router, hmoe.UniformRouter):
        return dict(always, router="uniform", k=router.k, weight_norm=router.weight_norm)
    if isinstance(router, hmoe.ExpertChoiceRouter):
        return dict(always, router="expert_choice", softmax_over=router.softmax_over)
    raise TypeError(f"the oracle has no rule for {router!r}")


def as_streams(
    values: np.ndarray, has_outer_batch: bool, depth: bool, inserted: int = 1
) -> np.ndarray:
    """Reshapes [(A), B, ..., (M)] to [A, tokens, (M)], the first level's view.

    An inserted outer batch is the minor part of the batch: of six examples in two outer
    batches, the first holds the examples 0, 2, 4.

    Args:
      values: inputs, or one number for each token.
      has_outer_batch: whether A is there.
      depth: whether M is there.
      inserted: size of the outer batch where A is not there.
    """
    if not has_outer_batch:
        batch = values.shape[0]
        values = values.reshape((batch // inserted, inserted) + values.shape[1:])
        values = np.swapaxes(values, 0, 1)
    tail = values.shape[-1:] if depth else ()
    return values.reshape((values.shape[0], -1) + tail)


def from_streams(
    outputs: np.ndarray, shape: Sequence[int], has_outer_batch: bool, inserted: int = 1
) -> np.ndarray:
    """Reshapes [A, tokens, N] to [*shape, N]; the inverse of `as_streams`."""
    if has_outer_batch:
        return outputs.reshape(tuple(shape) + outputs.shape[-1:])
    split = (inserted, shape[0] // inserted) + tuple(shape[1:]) + outputs.shape[-1:]
    return np.swapaxes(outputs.reshape(split), 0, 1).reshape(tuple(shape) + outputs.shape[-1:])
