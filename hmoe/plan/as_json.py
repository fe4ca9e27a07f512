"""A plan for other programs: dictionaries, lists, texts and numbers, as JSON has them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hmoe.plan.costs import LayerPlan, LevelPlan, Memory, Plan, StepCosts


def as_json(plan: Plan) -> dict[str, Any]:
    """Returns a plan; sizes are bytes, and all numbers are of one device but those of the model.

    Keys are the names of the fields of `costs.Plan` and of what it holds. `multiplications` and
    `exchanges` are lists of their places.
    """
    return {
        "platform": "tpu" if plan.on_tpu else "cpu",
        "devices": plan.devices,
        "mesh": dict(plan.mesh),
        "layout": dict(plan.layout),
        "tokens": plan.tokens,
        "microbatches": plan.microbatches,
        "parameters": plan.parameters,
        "active_parameters": plan.active_parameters,
        "memory": _memory(plan.memory),
        "multiplications": _multiplications(plan.costs),
        "exchanges": _exchanges(plan.costs),
        "layers": [_layer(each) for each in plan.layers],
        "remarks": list(plan.remarks),
    }


def _memory(memory: Memory) -> dict[str, int]:
    return {**dataclasses.asdict(memory), "total": memory.total}


def _multiplications(costs: StepCosts) -> list[dict[str, Any]]:
    return [
        {**place._asdict(), "multiplications": number}
        for place, number in costs.multiplications.items()
    ]


def _exchanges(costs: StepCosts) -> list[dict[str, Any]]:
    return [
        {
            "kind": each.kind,
            "axes": list(each.axes),
            **each.place._asdict(),
            "size": each.size,
            "count": each.count,
        }
        for each in costs.exchanges
    ]


def _layer(layer: LayerPlan) -> dict[str, Any]:
    return {
        **dataclasses.asdict(layer),
        "levels": [_level(each) for each in layer.levels],
        "slots_per_token": layer.slots_per_token,
        "empty_share": layer.empty_share,
    }


def _level(level: LevelPlan) -> dict[str, Any]:
    return {**dataclasses.asdict(level), "slots_per_token": level.slots_per_token}
