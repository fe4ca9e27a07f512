"""A small plan, made by hand."""

from __future__ import annotations

import dataclasses

from hmoe.plan.costs import Exchange, LayerPlan, LevelPlan, Memory, Place, Plan, StepCosts
from hmoe.plan.hardware import Hardware

OUTER = LevelPlan("outer", 4, 2, 15, 6, 7, 7.5, "cols", 2, 15)
INNER = LevelPlan("inner", 6, 2, 14, 12, 2, 2.33, "rows", 3, 14)
LAYER = LayerPlan("decoder/block_000/layer_002", (OUTER, INNER), tokens=90, slots=576, experts=24)

PLAN = Plan(
    mesh={"cols": 2, "rows": 3},
    layout={"batch": "cols", "expert_x": "cols", "expert_y": "rows", "outer_batch": "rows"},
    tokens=1230,
    microbatches=1,
    costs=StepCosts(
        {
            Place("experts", "", "forward"): 600_000_000,
            Place("experts", "", "backward"): 1_200_000_000,
            Place("router", "outer", "forward"): 1_500_000,
            Place("router", "inner", "backward"): 2_500_000,
            Place("other", "", "forward"): 195_000_000,
            Place("other", "", "update"): 999,
        },
        (
            Exchange("all-to-all", ("cols",), Place("dispatch", "outer", "forward"), 30_000, 2),
            Exchange("all-to-all", ("cols",), Place("dispatch", "outer", "backward"), 20_000, 2),
            Exchange("all-to-all", ("rows",), Place("dispatch", "inner", "forward"), 7_000, 3),
            Exchange("all-reduce", ("cols", "rows"), Place("other", "", "backward"), 900_000, 5),
        ),
    ),
    memory=Memory(4_000_000, 3_000_000, 50_000, 12_950_000),
    parameters=13_100_000,
    active_parameters=2_860_000,
    layers=(LAYER, dataclasses.replace(LAYER, name="decoder/block_001/layer_002")),
    remarks=("Something is wasted.",),
    on_tpu=False,
)

HARDWARE = Hardware(
    name="box",
    peak=4e12,
    memory=32e6,
    fast=1e9,
    slow=1e8,
    devices_per_host=3,
    source="made up",
)
