"""Levels of layers as they stand, for tests of what watches a run."""

from __future__ import annotations

import numpy as np

from hmoe.layer.level_states import LevelState


def state(level: str = "outer", **fields: object) -> LevelState:
    """A level that nothing is wrong with, but for the fields."""
    found: dict = {
        "layer": "encoder/block_000/layer_001",
        "level": level,
        "is_innermost": level == "inner",
        "load": np.array([5.0, 4.0, 3.0]),
        "dropped": 0.0,
        "entropy": None,
        "entropy_at_most": None,
        **fields,
    }
    return LevelState(**found)
