"""Calls Mesh TensorFlow's own layers of one and two levels like ours, and runs both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from mesh_tensorflow.transformer import moe as upstream_moe

import hmoe
from hmoe.compat.stack import mtf
from hmoe.routing import balancing
from tests import ask_oracle, graphs, reference, seeded, tolerances
from tests.run_layer import Run, run_layer

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 12), ("d_model", 7))
MIXED = seeded.importance_of(DIMS)
WHOLE = seeded.importance_of(DIMS, partial=False)
ONES = np.ones_like(WHOLE)


@dataclasses.dataclass
class Outcome:
    """The fields of an `hmoe.MoEResult`; upstream returns one sum of its losses and no metrics."""

    outputs: mtf.Tensor
    loss: mtf.Tensor
    losses: dict[str, mtf.Tensor] = dataclasses.field(default_factory=dict)
    metrics: dict[str, mtf.Tensor] = dataclasses.field(default_factory=dict)
    bias_updates: list[balancing.BiasUpdate] = dataclasses.field(default_factory=list)


def hparams(**settings: Any) -> upstream_moe.HParams:
    """Returns upstream's settings, with those that its own MoE2D forgets."""
    defaults = dict(
        moe_gating="top_2",
        moe_loss_coef=0.01,
        moe_hidden_size=11,
        moe_group_size=12,
        moe_min_expert_capacity=1,
        moe_capacity_factor_train=1.0,
        moe_capacity_factor_eval=1.0,
        moe_capacity_factor_second_level=1.0,
        moe_use_second_place_loss=False,
        moe_second_policy_train="all",
        moe_second_policy_eval="all",
        moe_second_threshold_train=0.3,
        moe_second_threshold_eval=0.3,
        moe_word_embed_mode=None,
        moe_z_loss=None,
        moe_use_experts_attention=False,
        moe_dropout_rate=0.0,
        moe_top_n_num_experts_per_token=3,
        moe_switch_policy_train="argmax",
        moe_switch_policy_eval="argmax",
        moe_switch_dropout=0.0,
        moe_switch_jitter=0.0,
        moe_switch_temperature=1.0,
        moe_ntlb_top_k=3,
        moe_use_second_place_expert_prob=None,
        moe_use_second_place_expert_prob_temp=None,
    )
    return upstream_moe.HParams(**dict(defaults, **settings))


class Upstream:
    """Upstream's `transformer_moe_layer_v1`, or `_v2` for two numbers of experts."""

    def __init__(self, num_experts: int | list[int], gating: str = "top_2", **settings: Any):
        self.hparams = hparams(moe_num_experts=num_experts, moe_gating=gating, **settings)
        self.function = (
            upstream_moe.transformer_moe_layer_v2
            if isinstance(num_experts, list)
            else upstream_moe.transformer_moe_layer_v1
        )

    def __call__(
        self,
        inputs,
        output_dim,
        *,
        train,
        mesh_shape,
        layout,
        variable_dtype,
        importance=None,
        embeddings=None,
    ):
        words = {} if embeddings is None else {"token_embeddings": embeddings}
        outputs, loss = self.function(
            inputs,
            output_dim,
            self.hparams,
            train,
            variable_dtype,
            layout=layout,
            mesh_shape=mesh_shape,
            nonpadding=importance,
            num_microbatches=1,
            **words,
        )
        return Outcome(outputs, mtf.cast(loss, "float32"))


def policies(policy: str) -> dict[str, str]:
    """Returns upstream's settings for one policy of later choices."""
    return dict(moe_second_policy_train=policy, moe_second_policy_eval=policy)


def top_k(k: int = 2, policy: str = "all", gate: hmoe.Gate | None = None) -> hmoe.TopKRouter:
    """Returns our router with upstream's settings."""
    return hmoe.TopKRouter(
        k=k,
        policy_train=policy,
        policy_eval=policy,
        threshold_train=0.3,
        threshold_eval=0.3,
        gate=gate,
    )


def level(name: str, num_experts: int, router: hmoe.Router, **more: Any) -> hmoe.Level:
    """Returns our level with upstream's settings."""
    settings = dict(
        group_size=12,
        min_capacity=1,
        capacity_factor_train=1.0,
        capacity_factor_eval=1.0,
        balance_loss_mean_over="positions",
    )
    return hmoe.Level(name=name, num_experts=num_experts, router=router, **dict(settings, **more))


def ours(*levels: hmoe.Level, **experts: Any) -> hmoe.HierarchicalMoE:
    """Returns our layer of these levels with upstream's settings."""
    return hmoe.HierarchicalMoE(
        levels=levels, experts=hmoe.FeedForwardExperts(hidden_size=11, **experts)
    )


def one(router: hmoe.Router, **more: Any) -> hmoe.HierarchicalMoE:
    """Returns our layer of one level with upstream's settings."""
    return ours(level("only", 5, router, **more))


def two(router: hmoe.Router | None = None, **more: Any) -> hmoe.HierarchicalMoE:
    """Returns our layer of two levels with upstream's settings."""
    router = router or top_k()
    return ours(level("outer", 3, router, **more), level("inner", 5, router, **more))


def oracle_of(
    moe: hmoe.HierarchicalMoE,
    weights: dict[str, np.ndarray],
    x: np.ndarray,
    importance: np.ndarray | None,
    train: bool,
    embeddings: np.ndarray | None = None,
) -> tuple[reference.Reference, reference.Result]:
    """Runs the oracle of our layer; returns it and its result."""
    # Where exploring is certain, any number decides for it.
    numbers = {"only/explore": np.zeros((2, 3, 12))}
    layer = ask_oracle.reference_of(moe, weights, train, uniforms=numbers)
    given = np.ones(x.shape[:-1]) if importance is None else importance
    words = None if embeddings is None else ask_oracle.as_streams(embeddings, True, depth=True)
    return layer, layer(
        ask_oracle.as_streams(x, True, depth=True),
        ask_oracle.as_streams(given, True, depth=False),
        words,
    )


def three_ways(
    moe: hmoe.HierarchicalMoE,
    theirs: Callable,
    importance: np.ndarray,
    train: bool = True,
    values: graphs.Values = seeded.weights_of,
) -> tuple[Run, Run, reference.Result]:
    """Runs ours, upstream's and the oracle, without gradients; ours must equal the oracle."""
    x = seeded.tokens_of(DIMS)
    mine, other = (
        run_layer(each, x, DIMS, importance=importance, train=train, gradients=False, values=values)
        for each in (moe, theirs)
    )
    _, expected = oracle_of(moe, mine.weights, x, importance, train)
    outputs = expected.outputs.reshape(mine.outputs.shape)
    tolerances.assert_close(mine.outputs, outputs, tolerances.ORACLE)
    tolerances.assert_close(mine.loss, expected.loss, tolerances.ORACLE)
    return mine, other, expected
