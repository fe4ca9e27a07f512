"""Hierarchical mixture of experts on named-dimension tensors.

The names below are loaded when first used, so that `import hmoe` (and with it
`hmoe --help`) costs nothing: TensorFlow takes seconds to import.
"""
from __future__ import annotations

import importlib
from typing import Any

from hmoe.version import __version__

_WHERE = {
    "Assignment": "hmoe.assignment",
    "Choices": "hmoe.assignment",
    "ExpertChoiceRouter": "hmoe.routers.expert_choice",
    "Fallback": "hmoe.assignment",
    "FeedForwardExperts": "hmoe.experts",
    "Gate": "hmoe.routers.gate",
    "HierarchicalMoE": "hmoe.moe",
    "Level": "hmoe.levels",
    "MoEResult": "hmoe.moe",
    "Router": "hmoe.routers.base",
    "SharedExpert": "hmoe.experts",
    "SwitchRouter": "hmoe.routers.switch",
    "TokenChoiceRouter": "hmoe.routers.token_choice",
    "TopKRouter": "hmoe.routers.top_k",
    "UniformRouter": "hmoe.routers.uniform",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'hmoe' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
