"""Costs of deep models from those of shallow ones, exactly: all blocks but the first are alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hmoe.plan.costs import Exchange, Memory, Place, Plan, StepCosts


def extrapolated(one: Plan, two: Plan, blocks: int) -> Plan:
    """Returns the plan of a model of some blocks.

    Args:
      one: that of the same model with one block in each stack.
      two: that with two blocks.
      blocks: the number of blocks of each stack, 1 or more.

    Returns:
      The plan; its layers are those of the first block.
    """
    further = blocks - 1
    costs = StepCosts(
        _numbers(one.costs.multiplications, two.costs.multiplications, further),
        tuple(_exchanges(one.costs, two.costs, further)),
    )
    fields = [field.name for field in dataclasses.fields(Memory)]
    memory = {
        name: _number(getattr(one.memory, name), getattr(two.memory, name), further)
        for name in fields
    }
    return dataclasses.replace(
        one,
        costs=costs,
        memory=Memory(**memory),
        parameters=_number(one.parameters, two.parameters, further),
        active_parameters=_number(one.active_parameters, two.active_parameters, further),
    )


def _number(one: int, two: int, further: int) -> int:
    return one + further * (two - one)


def _numbers(one: Mapping[Place, int], two: Mapping[Place, int], further: int) -> dict[Place, int]:
    keys = dict.fromkeys([*one, *two])
    return {key: _number(one.get(key, 0), two.get(key, 0), further) for key in keys}


def _exchanges(one: StepCosts, two: StepCosts, further: int) -> list[Exchange]:
    tables = [{(e.kind, e.axes, e.place): e for e in costs.exchanges} for costs in (one, two)]
    found = []
    for key in dict.fromkeys([*tables[0], *tables[1]]):
        first, second = (table.get(key) or Exchange(*key, 0, 0) for table in tables)
        size = _number(first.size, second.size, further)
        found.append(Exchange(*key, size, _number(first.count, second.count, further)))
    return found
