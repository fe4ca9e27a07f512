"""The candidates of a search, and their ranking, with plans made up."""

from __future__ import annotations

import dataclasses

import pytest

from hmoe.plan import search
from hmoe.plan.costs import Memory, Plan, StepCosts
from hmoe.plan.search import Candidate

PLAN = Plan(
    mesh={},
    layout={},
    tokens=1,
    microbatches=1,
    costs=StepCosts({}, ()),
    memory=Memory(0, 0, 0, 0),
    parameters=1,
    active_parameters=1,
    layers=(),
    remarks=(),
    on_tpu=False,
)


def meshes(devices: int, levels: int) -> list[str]:
    return [each.mesh_shape for each in search.candidates(devices, levels)]


def test_every_mesh_of_six_devices() -> None:
    # Ordered ways to write 6 as a product of three: 3 * 3.
    assert len(set(meshes(6, 0))) == 9
    assert meshes(6, 0) == [
        "cols:1;rows:1;model:6",
        "cols:1;rows:2;model:3",
        "cols:1;rows:3;model:2",
        "cols:1;rows:6;model:1",
        "cols:2;rows:1;model:3",
        "cols:2;rows:3;model:1",
        "cols:3;rows:1;model:2",
        "cols:3;rows:2;model:1",
        "cols:6;rows:1;model:1",
    ]


def test_layouts_of_two_levels() -> None:
    layouts = [
        each.layout_rules
        for each in search.candidates(6, 2)
        if each.mesh_shape == "cols:3;rows:2;model:1"
    ]
    assert layouts == [
        "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows",
        "outer_batch:rows;batch:cols;expert_x:cols",
        "outer_batch:rows;batch:cols",
        "outer_batch:rows;batch:cols;expert_y:rows",
    ]


def test_layouts_of_one_level_and_of_a_third_axis() -> None:
    found = {each.mesh_shape: each for each in search.candidates(8, 1)}
    assert found["cols:4;rows:1;model:2"].layout_rules == (
        "outer_batch:rows;batch:cols;expert_hidden:model;d_ff:model;heads:model;vocab:model"
    )
    first = next(e for e in search.candidates(8, 1) if e.mesh_shape == "cols:4;rows:2;model:1")
    assert first == Candidate(
        {"cols": 4, "rows": 2, "model": 1},
        {"outer_batch": "rows", "batch": "cols", "experts": "cols"},
        2,
    )


def test_no_candidate_twice() -> None:
    found = [(each.mesh_shape, each.layout_rules) for each in search.candidates(12, 2)]
    assert len(found) == len(set(found))


# By the size of the first axis: seconds and bytes of a step; None is refused.
COSTS = {1: (5.0, 10), 2: (3.0, 30), 3: None, 4: (3.0, 20), 6: (2.0, 50), 12: (1.0, 70)}


def planned(candidate: Candidate) -> Plan:
    costs = COSTS[candidate.mesh["cols"]]
    if costs is None:
        raise ValueError("8 heads cannot be split over 3 devices")
    return dataclasses.replace(PLAN, tokens=int(costs[0]), memory=Memory(costs[1], 0, 0, 0))


@pytest.fixture
def found() -> search.Found:
    tried = [each for each in search.candidates(12, 0) if each.mesh["rows"] == 1]
    return search.search(tried, planned, lambda plan: float(plan.tokens), memory=50)


def columns(judged: tuple[search.Judged, ...]) -> list[int]:
    return [each.candidate.mesh["cols"] for each in judged]


def test_ranking(found: search.Found) -> None:
    assert columns(found.ranked) == [6, 4, 2, 1]
    assert [each.seconds for each in found.ranked] == [2.0, 3.0, 3.0, 5.0]
    assert columns(found.too_large) == [12]
    assert columns(found.refused) == [3]


def test_front(found: search.Found) -> None:
    """The second of two equally quick ones needs more memory."""
    assert columns(found.front) == [6, 4, 1]


def test_reasons(found: search.Found) -> None:
    (reason,) = search.reasons(found.refused).items()
    assert reason[0] == "8 heads cannot be split over 3 devices"
    assert [each.mesh_shape for each in reason[1]] == ["cols:3;rows:1;model:4"]
