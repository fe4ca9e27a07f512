"""Routing contexts of a single level, for tests that call a router by itself."""

from __future__ import annotations

from hmoe.compat.stack import mtf
from hmoe.mesh.randomness import RandomSource
from hmoe.routing.context import RoutingContext


def context_for(
    experts_dim: mtf.Dimension,
    capacity: int,
    *,
    train: bool = True,
    has_partial_tokens: bool = True,
    level: str = "level",
) -> RoutingContext:
    """Returns a context with a gate in the scope "gating" and no levels above."""
    return RoutingContext(
        level=level,
        train=train,
        has_partial_tokens=has_partial_tokens,
        experts_dim=experts_dim,
        outer_expert_dims=[],
        capacity_dim=mtf.Dimension("expert_capacity", capacity),
        variable_dtype=mtf.VariableDType(),
        variable_scope="gating",
        random=RandomSource(0, level),
    )
