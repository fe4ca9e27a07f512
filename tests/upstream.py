"""Mesh TensorFlow's own layers of one and two levels, called like ours, and runs of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from mesh_tensorflow.transformer import moe as upstream_moe

import hmoe
from hmoe.compat.stack import mtf
from tests import helpers, reference, tolerances

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 12), ("d_model", 7))
MIXED = helpers.importance_of(DIMS)
WHOLE = helpers.importance_of(DIMS, partial=False)
ONES = np.ones_like(WHOLE)


@dataclasses.dataclass
class Outcome:
    """Has the fields of `hmoe.MoEResult` that `helpers.run_layer` reads."""

    outputs: Any
    loss: Any
    losses: dict[str, Any]
    metrics: dict[str, Any]


def hparams(**settings: Any) -> Any:
    """Upstream's settings, with those that its own MoE2D forgets."""
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
    """`transformer_moe_layer_v1` or `_v2`, by the number of levels."""

    def __init__(self, num_experts: Any, gating: str = "top_2", **settings: Any):
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
        return Outcome(outputs, mtf.cast(loss, "float32"), {}, {})


def policies(policy: str) -> dict[str, str]:
    """Upstream's settings for one policy of later choices."""
    return dict(moe_second_policy_train=policy, moe_second_policy_eval=policy)


def top_k(k: int = 2, policy: str = "all", gate: hmoe.Gate | None = None) -> hmoe.TopKRouter:
    """Our router with the settings above."""
    return hmoe.TopKRouter(
        k=k,
        policy_train=policy,
        policy_eval=policy,
        threshold_train=0.3,
        threshold_eval=0.3,
        gate=gate,
    )


def level(name: str, num_experts: int, router: hmoe.Router, **more: Any) -> hmoe.Level:
    """Our level with the settings above."""
    settings = dict(
        group_size=12,
        min_capacity=1,
        capacity_factor_train=1.0,
        capacity_factor_eval=1.0,
        balance_loss_mean_over="positions",
    )
    return hmoe.Level(name=name, num_experts=num_experts, router=router, **dict(settings, **more))


def ours(*levels: hmoe.Level, **experts: Any) -> hmoe.HierarchicalMoE:
    """Our layer with the settings above."""
    return hmoe.HierarchicalMoE(
        levels=levels, experts=hmoe.FeedForwardExperts(hidden_size=11, **experts)
    )


def one(router: hmoe.Router, **more: Any) -> hmoe.HierarchicalMoE:
    """Our layer of one level with the settings above."""
    return ours(level("only", 5, router, **more))


def two(router: hmoe.Router | None = None, **more: Any) -> hmoe.HierarchicalMoE:
    """Our layer of two levels with the settings above."""
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
    """The oracle of our layer, and what it makes of the inputs."""
    # Where exploring is certain, any number says so.
    numbers = {"only/explore": np.zeros((2, 3, 12))}
    layer = helpers.reference_of(moe, weights, train, uniforms=numbers)
    given = np.ones(x.shape[:-1]) if importance is None else importance
    words = None if embeddings is None else helpers.as_streams(embeddings, True, depth=True)
    return layer, layer(
        helpers.as_streams(x, True, depth=True), helpers.as_streams(given, True, depth=False), words
    )


def three_ways(
    moe: hmoe.HierarchicalMoE,
    theirs: Callable,
    importance: np.ndarray,
    train: bool = True,
    values: Callable = helpers.weights_of,
) -> tuple[helpers.Run, helpers.Run, reference.Result]:
    """Ours, upstream's and the oracle's, without gradients; ours is as the oracle says."""
    x = helpers.tokens_of(DIMS)
    mine, other = (
        helpers.run_layer(
            each, x, DIMS, importance=importance, train=train, gradients=False, values=values
        )
        for each in (moe, theirs)
    )
    _, expected = oracle_of(moe, mine.weights, x, importance, train)
    outputs = expected.outputs.reshape(mine.outputs.shape)
    tolerances.assert_close(mine.outputs, outputs, tolerances.ORACLE)
    tolerances.assert_close(mine.loss, expected.loss, tolerances.ORACLE)
    return mine, other, expected
