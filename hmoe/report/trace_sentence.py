"""The section that shows a sentence in the colors of its tokens' leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hmoe.analysis import ways
from hmoe.analysis.routed import sizes
from hmoe.analysis.traces import LayerInfo, Trace
from hmoe.analysis.ways import TokenWays
from hmoe.report import drawing, views
from hmoe.report.content import Item, Note, Piece, Section, Sentence
from hmoe.report.views import View

_MOST_LAYERS, _MOST_TOKENS = 4, 120
# How much white is in the colors of a group's first and last expert; dark text is read on all.
_WHITE = (0.35, 0.8)
_INK = "#000000"


def section(seen: Sequence[View]) -> Section:
    """Returns the section."""
    return Section(
        "sentence",
        "A sentence in the colors of its leaves",
        "color: the outer group; lighter or darker: the expert inside it; below each token: the"
        " number of the leaf, as outer.inner",
        "Tokens of one color went to the same outer group; those with the same number to the same"
        " leaf.",
        "The first example of the trace, some of the layers; where several leaves process a token,"
        " the one with the largest product of weights over levels, which the pointer shows. A dash:"
        " no leaf had room.",
        views.sides(seen, _items),
    )


def _items(view: View) -> list[Item]:
    trace = view.newest
    if not len(trace):
        return [Note("This trace has no tokens.")]
    layers = trace.manifest.layers
    chosen = [layers[0], layers[-1]] if len(layers) > _MOST_LAYERS else list(layers)
    return [_sentence(trace, layer) for layer in chosen]


def _sentence(trace: Trace, layer: LayerInfo) -> Sentence:
    example = int(trace.numbers["example"].min())
    tokens = list(ways.of_example(trace, example, layer).values())[:_MOST_TOKENS]
    pieces = tuple(_piece(token, layer) for token in tokens)
    return Sentence(f"{layer.name} ({layer.sequence}), example {example}", pieces)


def _piece(token: TokenWays, layer: LayerInfo) -> Piece:
    shown = views.visible(token.piece)
    reached = [way for way in token.ways if way.end == "leaf"]
    if not reached:
        return Piece(shown, "-", "no leaf had room for it", "", "")
    best = max(reached, key=lambda way: way.weight)
    name = ".".join(map(str, best.experts))
    title = f"leaf {name}, weight {best.weight:.2f}"
    return Piece(shown, name, title, _color(best.experts, layer), _INK)


def _color(experts: Sequence[int], layer: LayerInfo) -> str:
    """Returns a color by outer group, the lighter the later the leaf is in it."""
    inner = sizes(layer)[1:]
    place = int(np.ravel_multi_index(tuple(experts[1:]), inner)) if inner else 0
    base = drawing.colors(layer.levels[0].num_experts)[experts[0]]
    share = place / max(math.prod(inner) - 1, 1)
    white = _WHITE[0] + (_WHITE[1] - _WHITE[0]) * share
    parts = [int(base[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)
