"""Mesh TensorFlow's own layers of one and two levels, called like ours."""
from __future__ import annotations

import dataclasses
from typing import Any, Dict

from mesh_tensorflow.transformer import moe as upstream_moe

from hmoe.compat.stack import mtf


@dataclasses.dataclass
class Outcome:
    """Has the fields of `hmoe.MoEResult` that `helpers.run_layer` reads."""

    outputs: Any
    loss: Any
    losses: Dict[str, Any]
    metrics: Dict[str, Any]


def hparams(**settings: Any) -> Any:
    """Upstream's settings, with those that its own MoE2D forgets."""
    defaults = dict(
        moe_gating="top_2", moe_loss_coef=0.01, moe_hidden_size=11, moe_group_size=12,
        moe_min_expert_capacity=1, moe_capacity_factor_train=1.0, moe_capacity_factor_eval=1.0,
        moe_capacity_factor_second_level=1.0, moe_use_second_place_loss=False,
        moe_second_policy_train="all", moe_second_policy_eval="all",
        moe_second_threshold_train=0.3, moe_second_threshold_eval=0.3,
        moe_word_embed_mode=None, moe_z_loss=None, moe_use_experts_attention=False,
        moe_dropout_rate=0.0, moe_top_n_num_experts_per_token=3)
    return upstream_moe.HParams(**dict(defaults, **settings))


class Upstream:
    """`transformer_moe_layer_v1` or `_v2`, by the number of levels."""

    def __init__(self, num_experts: Any, **settings: Any):
        self.hparams = hparams(moe_num_experts=num_experts, **settings)
        self.function = (
            upstream_moe.transformer_moe_layer_v2 if isinstance(num_experts, list)
            else upstream_moe.transformer_moe_layer_v1)

    def __call__(self, inputs, output_dim, *, train, mesh_shape, layout, variable_dtype,
                 importance=None):
        outputs, loss = self.function(
            inputs, output_dim, self.hparams, train, variable_dtype, layout=layout,
            mesh_shape=mesh_shape, nonpadding=importance, num_microbatches=1)
        return Outcome(outputs, mtf.cast(loss, "float32"), {}, {})
