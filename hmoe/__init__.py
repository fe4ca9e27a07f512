"""Hierarchical mixture of experts on named-dimension tensors.

The names below are loaded when they are first used, so that `import hmoe`, and with it
`hmoe --help`, does not wait for TensorFlow, which takes seconds to import. After `import hmoe`,
`import mesh_tensorflow` works under every TensorFlow that this package supports.
"""

from __future__ import annotations

import importlib
from typing import Any

from hmoe.compat import import_hook
from hmoe.version import __version__

import_hook.register()

_WHERE = {
    "Assignment": "hmoe.routing.assignment",
    "Choices": "hmoe.routing.assignment",
    "ExpertChoiceRouter": "hmoe.routing.expert_choice",
    "Fallback": "hmoe.routing.assignment",
    "FeedForwardExperts": "hmoe.experts.feed_forward",
    "Gate": "hmoe.routing.gate",
    "HierarchicalMoE": "hmoe.layer.moe",
    "Level": "hmoe.layer.level",
    "MoEResult": "hmoe.layer.moe",
    "Router": "hmoe.routing.router",
    "SharedExpert": "hmoe.experts.feed_forward",
    "SwitchRouter": "hmoe.routing.switch",
    "TokenChoiceRouter": "hmoe.routing.token_choice",
    "TopKRouter": "hmoe.routing.top_k",
    "UniformRouter": "hmoe.routing.uniform",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'hmoe' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """Lists the public names, loaded or not."""
    return sorted(__all__)
