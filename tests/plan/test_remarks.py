"""What is legal but wasteful, in whole sentences."""

from __future__ import annotations

import dataclasses

from hmoe.plan import remarks
from hmoe.plan.costs import ALL_TO_ALL, Exchange, LayerPlan, LevelPlan, Place, StepCosts

OUTER = LevelPlan("outer", 4, 2, 15, 6, 7, 7.5, "cols", 2)
INNER = LevelPlan("inner", 6, 2, 14, 12, 2, 2.33, "rows", 3)
MESH = {"cols": 2, "rows": 3}
LAYOUT = {"outer_batch": "rows", "batch": "cols", "expert_x": "cols", "expert_y": "rows"}


def layer(*levels: LevelPlan, slots: int = 300) -> LayerPlan:
    return LayerPlan("decoder/layer_002", levels, tokens=90, slots=slots, experts=24)


def said(
    mesh: dict[str, int],
    layout: dict[str, str],
    layers: list[LayerPlan],
    weights: int = 0,
    whole: int = 0,
) -> tuple[str, ...]:
    return remarks.remarks(mesh, layout, layers, weights, whole)


def test_nothing_to_say() -> None:
    assert said(MESH, LAYOUT, [layer(OUTER, INNER)]) == ()
    assert said({"all": 1}, {}, [layer(dataclasses.replace(OUTER, axis=None))]) == ()


def test_an_axis_that_splits_nothing() -> None:
    assert said({**MESH, "model": 5}, LAYOUT, []) == (
        "The mesh axis model of 5 devices splits nothing: all of them do the same work. Add a layout rule for it, or leave it out (utils.run.layout_rules)",
    )


def test_a_batch_that_is_not_split() -> None:
    assert said({"cols": 2}, {"expert_x": "cols"}, []) == (
        "No batch dimension is split: every device computes all tokens outside the experts. Add rules for batch and outer_batch (utils.run.layout_rules)",
    )


def test_levels() -> None:
    unsplit = dataclasses.replace(INNER, axis=None, splits=1)
    raised = dataclasses.replace(
        OUTER, capacity=4, asked_capacity=1.25, group_size=5, asked_group_size=8
    )
    third = dataclasses.replace(INNER, name="innermost", axis=None, splits=1)
    found = said(MESH, LAYOUT, [layer(raised, unsplit, third), layer(raised, unsplit)])
    assert found == (
        "Level 'outer': min_capacity raises the capacity from 1.25 to 4 slots, 3.2 times as many. Larger groups or a lower min_capacity waste less",
        "Level 'outer': groups have 5 tokens and not the 8 asked for: the largest number that divides the tokens of a device",
        "The 6 experts of level 'inner' are not split: every device holds all of them. Add a layout rule for their dimension (utils.run.layout_rules)",
        "The 6 experts of level 'innermost' are not split: every device holds all of them. Add a layout rule for their dimension (utils.run.layout_rules)",
        "The third level, 'innermost', is not split: a T5 has two batch dimensions. Every device holds all of its experts",
    )


def test_empty_slots() -> None:
    # A token with two choices at each of two levels reaches three experts.
    assert said(MESH, LAYOUT, [layer(OUTER, INNER, slots=720)]) == (
        "At least 62% of the experts' work is spent on empty slots: there are 8.00 slots a token. Lower the capacity factors or min_capacity",
    )


def test_weights_that_every_device_has() -> None:
    assert said(MESH, LAYOUT, [], 5_000_000_000, 4_000_000_000) == (
        "4.0 GB of the 5.0 GB of weights on a device are not split: every device has all of them, and sends all of their gradients. An axis for d_ff, heads and vocab splits them (utils.run.layout_rules)",
    )
    assert said(MESH, LAYOUT, [], 5_000_000_000, 2_000_000_000) == ()
    assert said(MESH, LAYOUT, [], 500_000_000, 400_000_000) == ()
    assert said({"all": 1}, {}, [], 5_000_000_000, 5_000_000_000) == ()


def test_an_exchange_that_costs_more_than_the_experts() -> None:
    costs = StepCosts(
        {},
        (
            Exchange(ALL_TO_ALL, ("cols",), Place("dispatch", "outer", "forward"), 3000, 2),
            Exchange(ALL_TO_ALL, ("cols",), Place("dispatch", "outer", "backward"), 2000, 2),
            Exchange(ALL_TO_ALL, ("rows",), Place("dispatch", "inner", "forward"), 7000, 2),
        ),
    )
    per_byte = {"cols": 1e-6, "rows": 1e-7}
    assert remarks.costly_exchanges(costs, ["outer", "inner"], 0.004, per_byte) == (
        "Level 'outer': its exchanges take 5 ms of a step, more than the 4 ms of all experts. Larger experts, fewer choices, or a faster axis pay better",
    )
