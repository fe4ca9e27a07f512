"""A plan as JSON, by hand."""

from __future__ import annotations

import json

from hmoe.plan.as_json import as_json
from hmoe.plan.costs import Exchange, LayerPlan, LevelPlan, Memory, Place, Plan, StepCosts

FORWARD = Place("dispatch", "outer", "forward")
UPDATE = Place("other", "", "update")


def test_a_plan() -> None:
    level = LevelPlan(
        name="outer",
        num_experts=4,
        choices=2,
        group_size=12,
        num_groups=5,
        capacity=3,
        asked_capacity=2.5,
        axis=None,
        splits=1,
        asked_group_size=13,
    )
    plan = Plan(
        mesh={"rows": 2, "cols": 3},
        layout={"batch": "cols"},
        tokens=60,
        microbatches=7,
        costs=StepCosts(
            {FORWARD: 11, UPDATE: 13},
            (
                Exchange("all-to-all", ("cols",), FORWARD, 17, 19),
                Exchange("all-reduce", ("rows", "cols"), UPDATE, 23, 29),
            ),
        ),
        memory=Memory(parameters=31, gradients=37, optimizer=41, activations=43),
        parameters=47,
        active_parameters=46,
        layers=(LayerPlan("encoder/layer", (level,), tokens=60, slots=90, experts=4),),
        remarks=("Something is wasted.",),
        on_tpu=True,
    )
    assert json.loads(json.dumps(as_json(plan))) == {
        "platform": "tpu",
        "devices": 6,
        "mesh": {"rows": 2, "cols": 3},
        "layout": {"batch": "cols"},
        "tokens": 60,
        "microbatches": 7,
        "parameters": 47,
        "active_parameters": 46,
        "memory": {
            "parameters": 31,
            "gradients": 37,
            "optimizer": 41,
            "activations": 43,
            "total": 152,
        },
        "multiplications": [
            {"part": "dispatch", "level": "outer", "phase": "forward", "multiplications": 11},
            {"part": "other", "level": "", "phase": "update", "multiplications": 13},
        ],
        "exchanges": [
            {
                "kind": "all-to-all",
                "axes": ["cols"],
                "part": "dispatch",
                "level": "outer",
                "phase": "forward",
                "size": 17,
                "count": 19,
            },
            {
                "kind": "all-reduce",
                "axes": ["rows", "cols"],
                "part": "other",
                "level": "",
                "phase": "update",
                "size": 23,
                "count": 29,
            },
        ],
        "layers": [
            {
                "name": "encoder/layer",
                "levels": [
                    {
                        "name": "outer",
                        "num_experts": 4,
                        "choices": 2,
                        "group_size": 12,
                        "num_groups": 5,
                        "capacity": 3,
                        "asked_capacity": 2.5,
                        "axis": None,
                        "splits": 1,
                        "asked_group_size": 13,
                        "slots_per_token": 1.0,
                    }
                ],
                "tokens": 60,
                "slots": 90,
                "experts": 4,
                "slots_per_token": 1.5,
                # Two choices for one and a half slots.
                "empty_share": 0.0,
            }
        ],
        "remarks": ["Something is wasted."],
    }
