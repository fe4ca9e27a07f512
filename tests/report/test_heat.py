"""Heat maps that are to be compared have the same colors."""

from __future__ import annotations

import re

import numpy as np

from hmoe.report import heat
from hmoe.report.content import HeatMap, Note, Picture, Section, Side


def heat_map(name: str, scale: str, values: list[float]) -> HeatMap:
    columns = [f"leaf {column}" for column in range(len(values))]
    return HeatMap(name, name, "", np.array([values]), ["row"], columns, "share", scale)


def drawn(*sides: list[HeatMap]) -> dict[str, Picture]:
    """The pictures of runs that stand side by side, by name."""
    shown = tuple(Side("", (Note("before"), *items)) for items in sides)
    section = heat.drawn(Section("name", "Title", "", "", "", shown))
    assert [side.items[0] for side in section.sides] == [Note("before")] * len(sides)
    items = [item for side in section.sides for item in side.items[1:]]
    assert all(isinstance(item, Picture) for item in items)
    return {item.name: item for item in items if isinstance(item, Picture)}


def numbers(picture: Picture) -> list[str]:
    """What stands beside the colors, from the first to the last."""
    return re.findall(r">(\N{MINUS SIGN}?\d+(?:\.\d+)?)<", picture.svg)


def test_runs_side_by_side_have_the_same_colors() -> None:
    found = drawn([heat_map("a", "load", [0.5, 4.0, 1.0])], [heat_map("b", "load", [0.2, np.nan])])
    assert numbers(found["a"]) == numbers(found["b"])
    assert numbers(found["a"])[-1] == "4"


def test_other_scales_have_colors_of_their_own() -> None:
    found = drawn([heat_map("a", "load", [4.0]), heat_map("b", "path", [-0.5, 1.0])])
    assert (numbers(found["a"])[0], numbers(found["a"])[-1]) == ("0", "4")
    assert float(numbers(found["b"])[-1]) == 1.0
    assert numbers(found["b"])[0].startswith("\N{MINUS SIGN}")


def test_a_table_without_numbers_is_drawn() -> None:
    assert numbers(drawn([heat_map("a", "load", [np.nan])])["a"])
