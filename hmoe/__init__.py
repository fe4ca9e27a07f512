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
    "FeedForwardExperts": "hmoe.experts",
    "HierarchicalMoE": "hmoe.moe",
    "Level": "hmoe.levels",
    "MoEResult": "hmoe.moe",
    "Router": "hmoe.routers.base",
    "SharedExpert": "hmoe.experts",
    "TopKRouter": "hmoe.routers.top_k",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module 'hmoe' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
