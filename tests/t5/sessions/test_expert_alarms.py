"""Alarms by hand tables: which numbers give them, in which words, and once each."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from hmoe.t5.sessions import expert_alarms
from hmoe.t5.sessions.expert_alarms import Alarm, Limits, Once
from tests.levels import state

LIMITS = Limits(
    idle_experts=True, group_below=0.1, group_above=2.5, dropped_above=0.25, entropy_below=0.01
)
LAYER = "encoder/block_000/layer_001"


def found(limits: Limits = LIMITS, once: Once | None = None, **fields: Any) -> list[Alarm]:
    return expert_alarms.find([state(**fields)], limits, once or Once(), 101, 200)


@pytest.mark.parametrize(
    ("fields", "kind", "experts", "value", "line"),
    [
        pytest.param(
            {"level": "inner", "load": np.array([[4.0, 0, 2], [1, 1, 1]])},
            "idle_experts",
            ((0, 1),),
            0.0,
            "no token chose expert 0.1 in steps 101 to 200, counted before policy and capacity (idle "
            "experts in all: 1 of 6); raise hmoe.Level.balance_loss_coef of this level",
            id="an_idle_expert",
        ),
        pytest.param(
            {"level": "inner", "load": np.array([7.0, 0, 0, 0, 0, 0, 0, 0, 0])},
            "idle_experts",
            tuple((i,) for i in range(1, 9)),
            0.0,
            "no token chose experts 1, 2, 3, 4, 5, 6 and 2 more in steps 101 to 200, counted "
            "before policy and capacity (idle experts in all: 8 of 9); raise hmoe.Level.balance_loss_coef of this level",
            id="many_idle_experts",
        ),
        pytest.param(
            # Of 40 tokens 10 are even for each of 4 groups.
            {"load": np.array([24.5, 0.5, 14.5, 0.5])},
            "group_below",
            ((1,), (3,)),
            0.05,
            "the demand for groups 1, 3 is below 0.1 times the even share in steps 101 to 200 "
            "(0.05 times at the worst); raise hmoe.Level.balance_loss_coef of this level",
            id="groups_that_tokens_avoid",
        ),
        pytest.param(
            {"load": np.array([4.0, 26.0, 6.0, 4.0])},
            "group_above",
            ((1,),),
            2.6,
            "the demand for group 1 is above 2.5 times the even share in steps 101 to 200 "
            "(2.60 times at the worst); raise hmoe.Level.balance_loss_coef of this level",
            id="a_group_that_all_tokens_choose",
        ),
        pytest.param(
            # Groups of a middle level are compared with their siblings alone.
            {"load": np.array([[100.0, 100], [0, 0], [1.99, 0.01]])},
            "group_below",
            ((2, 1),),
            0.01,
            "the demand for group 2.1 is below 0.1 times the even share in steps 101 to 200 "
            "(0.01 times at the worst); raise hmoe.Level.balance_loss_coef of this level",
            id="a_group_of_a_middle_level",
        ),
        pytest.param(
            {"dropped": 0.2504},
            "dropped_above",
            (),
            0.2504,
            "25.0 % of the layer's tokens were left behind because of this level in steps 101 to "
            "200, which is above 25 %; raise hmoe.Level.capacity_factor_train of this level",
            id="dropped",
        ),
        pytest.param(
            {"entropy": 0.005 * math.log(3)},
            "entropy_below",
            (),
            0.005,
            "the entropy of the router is 0.0055 nats in steps 101 to 200, 0.5 % of that of an "
            "undecided one, which is below 1 %; raise hmoe.Level.z_loss_coef of this level",
            id="entropy",
        ),
        pytest.param(
            {"entropy_at_most": 0.005 * math.log(3)},
            "entropy_below",
            (),
            0.005,
            "the entropy of the router for tokens with a slot is at most 0.0055 nats in steps 101 "
            "to 200, at most 0.5 % of that of an undecided one, which is below 1 %; raise "
            "hmoe.Level.z_loss_coef of this level",
            id="entropy_by_weights",
        ),
    ],
)
def test_alarms(fields: dict, kind: str, experts: tuple, value: float, line: str) -> None:
    (alarm,) = found(**fields)
    level = fields.get("level", "outer")
    assert alarm.line == f"Alarm: {LAYER}, level {level}: {line}"
    assert (alarm.kind, alarm.layer, alarm.level, alarm.experts) == (kind, LAYER, level, experts)
    assert alarm.value == pytest.approx(value)
    assert alarm.setting in line
    # Without its limit there is no such alarm.
    name = "idle_experts" if kind == "idle_experts" else kind
    off = False if kind == "idle_experts" else None
    assert found(dataclasses.replace(LIMITS, **{name: off}), **fields) == []


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="nothing_wrong"),
        pytest.param({"load": np.array([2.5, 0.1, 0.1 * 1, 0.1 * 13])}, id="at_both_limits"),
        pytest.param({"dropped": 0.25}, id="dropped_at_the_limit"),
        pytest.param({"entropy": 0.01 * math.log(3)}, id="entropy_at_the_limit"),
        pytest.param({"entropy_at_most": 0.01 * math.log(3)}, id="at_most_the_limit"),
        pytest.param({"entropy": 0.1, "entropy_at_most": 0.0}, id="what_is_measured_counts"),
        pytest.param({"load": np.array([3.0]), "entropy": 0.0}, id="a_router_without_a_choice"),
        pytest.param({"load": np.zeros(3)}, id="groups_that_nothing_came_to"),
        # All 4 experts of a level of experts are chosen; how evenly is no alarm.
        pytest.param(
            {"level": "inner", "load": np.array([97.0, 1, 1, 1])}, id="uneven_innermost_experts"
        ),
    ],
)
def test_no_alarms(fields: dict) -> None:
    assert found(**fields) == []


def test_each_expert_and_place_once() -> None:
    once = Once()
    loads = ([0.0, 5, 5], [0.0, 5, 5], [0.0, 0, 5], [0.0, 5, 0])
    alarms = [found(once=once, level="inner", load=np.array(load)) for load in loads]
    assert [[alarm.experts for alarm in each] for each in alarms] == [
        [((0,),)],
        [],
        [((1,),)],
        [((2,),)],
    ]
    assert "(idle experts in all: 2 of 3)" in alarms[2][0].text
    assert [len(found(once=once, dropped=0.5)) for _ in range(2)] == [1, 0]
    # Another layer is another place.
    assert len(found(once=once, dropped=0.5, layer="decoder/block_000/layer_002")) == 1


def test_a_single_step() -> None:
    (alarm,) = expert_alarms.find([state(dropped=0.5)], LIMITS, Once(), 7, 7)
    assert "because of this level in step 7, which" in alarm.text
