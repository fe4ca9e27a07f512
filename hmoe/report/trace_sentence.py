"""The section that shows a sentence in the colors of its tokens' leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hmoe.analysis.routed import Routed, routed, sizes
from hmoe.analysis.traces import LayerInfo, Trace
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
        " the one of the largest weight at the last level. A dash: no leaf had room.",
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
    rows = trace.rows_of(layer.name) & (trace.numbers["example"] == example)
    rows &= trace.numbers["level"] == 0
    positions, first = np.unique(trace.numbers["position"][rows], return_index=True)
    texts = trace.words("piece")[rows][first]
    choices = routed(trace, layer.name)
    pieces = [
        _piece(str(text), _best(choices, example, int(position)), layer)
        for position, text in list(zip(positions, texts))[:_MOST_TOKENS]
    ]
    caption = f"{layer.name} ({layer.sequence}), example {example}"
    return Sentence(caption, tuple(pieces))


def _best(choices: Routed, example: int, position: int) -> tuple[int, float] | None:
    """Returns the leaf of a token with the largest weight, and the weight; None for no leaf."""
    found = np.flatnonzero((choices.example == example) & (choices.position == position))
    if not len(found):
        return None
    best = found[np.argmax(choices.weight[found])]
    return int(choices.leaf[best]), float(choices.weight[best])


def _piece(text: str, best: tuple[int, float] | None, layer: LayerInfo) -> Piece:
    shown = views.visible(text)
    if best is None:
        return Piece(shown, "-", "no leaf had room for it", "", "")
    leaf, weight = best
    name = views.leaf_name(leaf, sizes(layer))
    return Piece(shown, name, f"leaf {name}, weight {weight:.2f}", _color(leaf, layer), _INK)


def _color(leaf: int, layer: LayerInfo) -> str:
    """Returns a color by outer group, the lighter the later the leaf is in it."""
    inside = layer.num_leaves // layer.levels[0].num_experts
    groups = drawing.colors(layer.levels[0].num_experts)
    base = groups[leaf // inside]
    share = leaf % inside / max(inside - 1, 1)
    white = _WHITE[0] + (_WHITE[1] - _WHITE[0]) * share
    parts = [int(base[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)
