"""Modelled times, by hand."""

from __future__ import annotations

import dataclasses

import pytest

from hmoe.plan import time_model
from hmoe.plan.costs import StepCosts
from tests.plan.plans import HARDWARE, PLAN


def test_a_step() -> None:
    found = time_model.step_time(PLAN, HARDWARE)
    # Two operations a multiplication, of 4e12 a second.
    assert found.compute == pytest.approx(
        {"experts": 2 * 1.8e9 / 4e12, "router": 2 * 4e6 / 4e12, "other": 2 * 195000999 / 4e12}
    )
    sizes = {axis.axes: (axis.hosts, axis.size, axis.seconds) for axis in found.axes}
    # The inner level's three devices are one host, so that the other axis leaves it.
    assert sizes == {
        ("cols",): (2, 50_000, pytest.approx(5e-4)),
        ("rows",): (1, 7_000, pytest.approx(7e-6)),
        ("cols", "rows"): (2, 900_000, pytest.approx(9e-3)),
    }
    assert found.communicating == pytest.approx(9.507e-3)
    assert found.overlapping == found.communicating
    assert found.one_after_the_other == pytest.approx(9.507e-3 + found.computing)
    assert found.bound_by == "exchanges over cols and rows"
    by_axes = {axis.axes: axis for axis in found.axes}
    operations = 2 * PLAN.costs.multiplied()
    assert by_axes[("rows",)].operations_per_byte == pytest.approx(operations / 7000)
    assert by_axes[("rows",)].needed_per_byte == pytest.approx(4e12 / 1e9)
    assert by_axes[("cols",)].needed_per_byte == pytest.approx(4e12 / 1e8)


def test_bound_by_multiplications() -> None:
    slow = dataclasses.replace(HARDWARE, peak=1e9)
    found = time_model.step_time(PLAN, slow)
    assert (found.bound_by, found.overlapping) == ("multiplications", found.computing)
    alone = dataclasses.replace(PLAN, costs=StepCosts(PLAN.costs.multiplications, ()))
    found = time_model.step_time(alone, HARDWARE)
    assert (found.bound_by, found.communicating, found.axes) == ("multiplications", 0, ())


def test_a_level_that_costs_more_than_its_experts() -> None:
    quick = dataclasses.replace(HARDWARE, peak=4e13)
    assert time_model.step_time(PLAN, quick).remarks == (
        "Level 'outer': its exchanges take 0.5 ms of a step, more than the 0.09 ms of all experts. Larger experts, fewer choices, or a faster axis pay better",
    )


@pytest.mark.parametrize(
    ("mesh", "per_host", "hosts"),
    [
        ({"cols": 4, "rows": 8}, None, {"cols": 1, "rows": 1}),
        ({"cols": 4, "rows": 8}, 8, {"cols": 4, "rows": 1}),
        ({"cols": 4, "rows": 8}, 16, {"cols": 2, "rows": 1}),
        ({"cols": 4, "rows": 8}, 4, {"cols": 4, "rows": 2}),
        ({"rows": 8, "cols": 4}, 32, {"rows": 1, "cols": 1}),
        # An axis that splits layers is the fastest.
        ({"cols": 2, "rows": 4, "model": 2}, 8, {"cols": 2, "rows": 1, "model": 1}),
    ],
)
def test_which_axes_leave_a_host(
    mesh: dict[str, int], per_host: int | None, hosts: dict[str, int]
) -> None:
    layout = {**PLAN.layout, "d_ff": "model"}
    assert time_model.hosts_of_axes(mesh, layout, per_host) == hosts
