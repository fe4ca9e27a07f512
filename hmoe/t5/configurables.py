"""Every name that gin files can use, registered in one place."""
from __future__ import annotations

import gin

from hmoe import experts, levels
from hmoe.routers import expert_choice, gate, switch, top_k, uniform
from hmoe.t5 import attention, layer, upstream

MODULE = "hmoe"

Level = gin.external_configurable(levels.Level, module=MODULE)
Gate = gin.external_configurable(gate.Gate, module=MODULE)
SwitchRouter = gin.external_configurable(switch.SwitchRouter, module=MODULE)
UniformRouter = gin.external_configurable(uniform.UniformRouter, module=MODULE)
ExpertChoiceRouter = gin.external_configurable(expert_choice.ExpertChoiceRouter, module=MODULE)
TopKRouter = gin.external_configurable(top_k.TopKRouter, module=MODULE)
FeedForwardExperts = gin.external_configurable(experts.FeedForwardExperts, module=MODULE)
SharedExpert = gin.external_configurable(experts.SharedExpert, module=MODULE)
MoELayer = gin.external_configurable(layer.MoELayer, module=MODULE)
ExpertsSelfAttention = gin.external_configurable(attention.ExpertsSelfAttention, module=MODULE)
ExpertsEncDecAttention = gin.external_configurable(
    attention.ExpertsEncDecAttention, module=MODULE)
moe1d_variable_name = gin.external_configurable(upstream.moe1d_variable_name, module=MODULE)

# Names of the classes above, for documentation and for messages.
CLASSES = (MoELayer, Level, Gate, TopKRouter, SwitchRouter, ExpertChoiceRouter, UniformRouter,
           FeedForwardExperts, SharedExpert, ExpertsSelfAttention, ExpertsEncDecAttention)
