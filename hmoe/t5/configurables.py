"""Every name that gin files can use, registered in one place."""

from __future__ import annotations

import gin

from hmoe.experts import feed_forward
from hmoe.layer import level, moe
from hmoe.routing import expert_choice, gate, switch, top_k, uniform
from hmoe.t5.layers import attention, moe1d_checkpoint, moe_layer

MODULE = "hmoe"

Level = gin.external_configurable(level.Level, module=MODULE)
Gate = gin.external_configurable(gate.Gate, module=MODULE)
SwitchRouter = gin.external_configurable(switch.SwitchRouter, module=MODULE)
UniformRouter = gin.external_configurable(uniform.UniformRouter, module=MODULE)
ExpertChoiceRouter = gin.external_configurable(expert_choice.ExpertChoiceRouter, module=MODULE)
TopKRouter = gin.external_configurable(top_k.TopKRouter, module=MODULE)
FeedForwardExperts = gin.external_configurable(feed_forward.FeedForwardExperts, module=MODULE)
SharedExpert = gin.external_configurable(feed_forward.SharedExpert, module=MODULE)
HierarchicalMoE = gin.external_configurable(moe.HierarchicalMoE, module=MODULE)
MoELayer = gin.external_configurable(moe_layer.MoELayer, module=MODULE)
ExpertsSelfAttention = gin.external_configurable(attention.ExpertsSelfAttention, module=MODULE)
ExpertsEncDecAttention = gin.external_configurable(attention.ExpertsEncDecAttention, module=MODULE)
moe1d_variable_name = gin.external_configurable(moe1d_checkpoint.moe1d_variable_name, module=MODULE)
