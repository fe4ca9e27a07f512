"""Checks of mesh and layout rules before a graph is built."""
from __future__ import annotations

from typing import Any

import gin

from hmoe.compat.stack import mtf
from hmoe.layout import LAYER_DIMENSIONS, MeshLayout, expert_dimension_names
from hmoe.t5 import configurables

# What T5's transformers name besides the dimensions of the mixture layer.
T5_DIMENSIONS = (
    "beam", "buckets", "d_kv", "d_model", "d_ff", "ensemble", "heads", "inputs_vocab", "kv",
    "length", "memory_length", "microbatch", "num_memory_heads", "vocab",
)


def check(mesh_shape: Any, layout_rules: Any) -> list[str]:
    """Checks layout rules, and the levels that gin gives to `hmoe.MoELayer`.

    Args:
      mesh_shape: of the run.
      layout_rules: of the run.

    Returns:
      Warnings in words: dimensions left whole on a mesh that has room. None for a
      model without experts, which layout files may give other arguments to.

    Raises:
      ValueError: a rule names a dimension or mesh axis that does not exist, or the
        experts cannot be split so.
    """
    if "levels" not in gin.get_bindings("hmoe.MoELayer", resolve_references=False):
        return []
    layout = MeshLayout(mesh_shape, _without_ensembles(layout_rules))
    names = {name for count in (1, 2, 3) for name in expert_dimension_names(count)}
    layout.check_rules([*T5_DIMENSIONS, *LAYER_DIMENSIONS, *names])
    return list(configurables.MoELayer().check_layout(layout))


def _without_ensembles(layout_rules: Any) -> mtf.LayoutRules:
    """T5's default rules split ensembles over an axis that only ensembles have."""
    # LayoutRules has no public accessor for its pairs.
    pairs = mtf.convert_to_layout_rules(layout_rules)._pairs
    return mtf.LayoutRules(pairs - {("ensemble", "ensemble")})
