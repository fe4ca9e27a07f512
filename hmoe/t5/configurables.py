"""Every name that gin files can use, registered in one place."""
from __future__ import annotations

import gin

from hmoe import experts, levels
from hmoe.routers import top_k
from hmoe.t5 import layer, upstream

MODULE = "hmoe"

Level = gin.external_configurable(levels.Level, module=MODULE)
TopKRouter = gin.external_configurable(top_k.TopKRouter, module=MODULE)
FeedForwardExperts = gin.external_configurable(experts.FeedForwardExperts, module=MODULE)
SharedExpert = gin.external_configurable(experts.SharedExpert, module=MODULE)
MoELayer = gin.external_configurable(layer.MoELayer, module=MODULE)
moe1d_variable_name = gin.external_configurable(upstream.moe1d_variable_name, module=MODULE)

# Names of the classes above, for documentation and for messages.
CLASSES = (Level, TopKRouter, FeedForwardExperts, SharedExpert, MoELayer)
