"""Describes the mixture layers of a plan from the sizes that they had when they were built."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hmoe.compat.stack import mtf
from hmoe.layer.capacity import exactly
from hmoe.layer.level import Level
from hmoe.layer.level_shape import LevelShape
from hmoe.mesh.layout import MeshLayout
from hmoe.plan.costs import LayerPlan, LevelPlan


def layer_plan(
    name: str,
    levels: Sequence[Level],
    shapes: Sequence[LevelShape],
    layout: MeshLayout,
    microbatches: int,
) -> LayerPlan:
    """Describes one call of a layer in training.

    Args:
      name: name of the layer.
      levels: its levels, outermost first.
      shapes: the sizes of the levels in the call.
      layout: how dimensions are split over devices.
      microbatches: how many such calls a step makes.
    """
    plans = tuple(
        _level_plan(level, depth, shape, layout)
        for depth, (level, shape) in enumerate(zip(levels, shapes))
    )
    first, last = plans[0], plans[-1]
    experts = math.prod(level.num_experts for level in plans)
    return LayerPlan(
        name=name,
        levels=plans,
        tokens=first.num_groups * first.group_size * microbatches,
        slots=experts * last.num_groups * last.capacity * microbatches,
        experts=experts,
    )


def _level_plan(level: Level, depth: int, shape: LevelShape, layout: MeshLayout) -> LevelPlan:
    axis = layout.axis(shape.exchange.experts.name)
    size, waiting = shape.tokens_dim.size, shape.leading[len(shape.outer_expert_dims) :]
    slots = size * exactly(level.capacity_factor(train=True, depth=depth))
    return LevelPlan(
        name=level.name,
        num_experts=level.num_experts,
        choices=_choices(level),
        group_size=size,
        num_groups=mtf.Shape([*waiting, shape.exchange.group]).size,
        capacity=shape.capacity_dim.size,
        asked_capacity=min(float(size), float(slots / level.num_experts)),
        axis=axis,
        splits=1 if axis is None else layout.num_splits(shape.exchange.experts.name),
        asked_group_size=None if level.examples_per_group else level.group_size,
    )


def _choices(level: Level) -> int | None:
    if level.router.max_choices is None:
        return None
    return level.router.num_choices(level.num_experts)
