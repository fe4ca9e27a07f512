"""Whether inputs of a test are hard enough to say something, and clear enough to repeat."""

from __future__ import annotations

from collections.abc import Sequence

from tests.reference.layer import Result
from tests.reference.routing import Choice, Group
from tests.reference.specs import LevelSpec


def smallest_margin(result: Result) -> float:
    """How near the routing is to another one, over all decisions that were made."""
    return float(
        min([1.0] + [value for groups in result.groups for g in groups for value in g.margins])
    )


def dropped_choices(groups: list[Group]) -> list[Choice]:
    """What tokens wanted and did not get."""
    return [
        c for g in groups for each in g.choices for c in each if c.wanted and c.position is None
    ]


def assert_not_easy(
    result: Result, specs: Sequence[LevelSpec], *, partial: bool, padding: bool
) -> None:
    """Capacities bind, and what can happen does; levels have two groups or more.

    First choices, later ones and inner slots overflow; retries find room; experts that
    choose leave tokens behind and take some twice.
    """
    for depth, (spec, groups) in enumerate(zip(specs, result.groups)):
        assert len([g for g in groups if g.family == groups[0].family]) >= 2, spec.name
        if spec.router == "expert_choice":
            _assert_experts_choose(groups, spec.name)
            continue
        dropped = dropped_choices(groups)
        retried = [
            c
            for g in groups
            for each in g.choices
            for c in each
            if c.position is not None and c.taken_by != c.expert
        ]
        assert dropped or retried, f"nothing overflows at {spec.name}"
        if spec.retries:
            assert retried, f"no retry finds room at {spec.name}"
        if depth == 0 and spec.router != "uniform":
            assert any(c.rank == 0 for c in dropped + retried), "no first choice overflows"
    _assert_later_choices_overflow(result, specs)
    values = [i for g in result.groups[0] for i in g.importance]
    assert any(0 < i < 1 for i in values) == partial
    assert any(i == 0 for i in values) == padding


def _assert_later_choices_overflow(result: Result, specs: Sequence[LevelSpec]) -> None:
    later = [
        groups
        for spec, groups in zip(specs, result.groups)
        if spec.router != "expert_choice" and spec.k > 1 and spec.policy != "none"
    ]
    if later:
        assert any(
            c.rank > 0 and (c.position is None or c.taken_by != c.expert)
            for groups in later
            for g in groups
            for each in g.choices
            for c in each
            if c.wanted
        ), "no later choice overflows"


def _assert_experts_choose(groups: list[Group], name: str) -> None:
    real = [choices for g in groups for t, choices in enumerate(g.choices) if g.importance[t] > 0]
    assert any(not choices for choices in real), f"experts leave no token at {name}"
    assert any(len(choices) > 1 for choices in real), f"no token has two experts at {name}"
