"""A sentence in the colors of its leaves: which leaf of a token, and which color."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis import trace_table
from hmoe.analysis.traces import Category, LevelInfo, Trace
from hmoe.report import drawing, trace_sentence
from hmoe.report.content import Piece, Sentence
from hmoe.report.views import View
from tests.analysis import made_traces

# The choices of one token: level, path, parent, rank, expert, weight, and where it went.
_OUTER = [(0, 0, 0, 0, 0, 0.75, 0), (0, 0, 0, 1, 1, 0.25, 1)]


def traced(choices: list[tuple]) -> Trace:
    """Returns a trace of one token in a layer of 2 x 3 experts, two of which it chooses at each."""
    found = made_traces.of_experts(np.zeros((1, 1, 1, 2), int), (2, 3), ["de"])
    (layer,) = found.manifest.layers
    levels = tuple(LevelInfo(each.name, each.num_experts, 2, "") for each in layer.levels)
    manifest = dataclasses.replace(
        found.manifest, layers=(dataclasses.replace(layer, levels=levels),)
    )
    names = ("level", "path", "parent", "rank", "expert", "weight", "went")
    columns = dict(zip(names, map(np.array, zip(*choices))))
    rows = np.zeros(len(choices), int)
    numbers = {name: values[rows] for name, values in found.numbers.items()} | columns
    categories = {
        name: Category(each.codes[rows], each.names) for name, each in found.categories.items()
    }
    return Trace(manifest, numbers, categories)


def piece(trace: Trace) -> Piece:
    """Returns the token of such a trace as the report shows it."""
    section = trace_sentence.section([View("run", "", "", (trace,))])
    (sentence,) = (item for item in section.sides[0].items if isinstance(item, Sentence))
    (found,) = sentence.pieces
    return found


def lightened(color: str, white: float) -> str:
    parts = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def test_the_leaf_with_the_largest_product_of_weights() -> None:
    """0.75 * 0.6 at leaf 0.1 is more than 0.25 * 0.9 at leaf 1.2, whose last weight is larger."""
    inner = [
        (1, 0, 0, 0, 1, 0.6, 1),
        (1, 0, 0, 1, 2, 0.4, 2),
        (1, 1, 1, 0, 2, 0.9, 2),
        (1, 1, 1, 1, 0, 0.1, 0),
    ]
    trace = traced(_OUTER + inner)
    blue = lightened(drawing.COLORS[0], (0.35 + 0.8) / 2)  # the second of three experts inside
    assert piece(trace) == Piece("p0", "0.1", "leaf 0.1, weight 0.45", blue, "#000000")
    # The table of a trace has the same weights.
    assert "0.1 0.45, 0.2 0.30, 1.2 0.23, 1.0 0.03" in trace_table.report(trace, 0)


def test_the_color_of_the_other_group_and_its_last_expert() -> None:
    inner = [(1, 0, 0, 0, 1, 0.2, 1), (1, 1, 1, 0, 2, 0.8, 2)]
    orange = lightened(drawing.COLORS[1], 0.8)
    assert piece(traced(_OUTER + inner)) == Piece(
        "p0", "1.2", "leaf 1.2, weight 0.20", orange, "#000000"
    )


def test_a_token_without_room_has_no_color() -> None:
    inner = [(1, 0, 0, 0, 1, 1.0, -1)]
    trace = traced([_OUTER[0], *inner])
    assert piece(trace) == Piece("p0", "-", "no leaf had room for it", "", "")
    assert "0.1x" in trace_table.report(trace, 0)
