"""The picture of `learning_study`: losses by twin, and what leaving experts out costs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning_twins import FLAT, TREE, TWINS

_WAYS = {
    "random_leaves": ("random leaves", "#888888", "--"),
    "random_groups": ("random groups", "#d1864b", "--"),
    "top_leaves": ("most used leaves", "#8ab4d4", "-"),
    "top_groups": ("most used groups", "#1b6ca8", "-"),
}


def picture(results: Sequence[dict[str, Any]], margin: float) -> str:
    """An SVG with a row for each task: losses, information by level, retention of the tree."""
    tasks = list(dict.fromkeys(each["task"] for each in results))
    figure = Figure(figsize=(13, 3.9 * len(tasks)), layout="constrained")
    rows = figure.subplots(len(tasks), 3, squeeze=False, width_ratios=(1.35, 1, 1))
    for task, (left, middle, right) in zip(tasks, rows):
        own = [each for each in results if each["task"] == task]
        _losses(left, own, margin)
        _information(middle, own)
        _retention(right, own)
        left.set_ylabel(f"{task}\n\ncross entropy held out, nats")
    return _svg(figure)


def _losses(axes: Axes, own: Sequence[dict[str, Any]], margin: float) -> None:
    flat = np.mean([each["cross_entropy"] for each in own if each["twin"] == FLAT])
    axes.axhspan(flat * (1 - margin), flat * (1 + margin), color="#8ab4d4", alpha=0.4, lw=0)
    for place, twin in enumerate(TWINS):
        values = [each["cross_entropy"] for each in own if each["twin"] == twin]
        if values:
            axes.plot([place] * len(values), values, "o", color="#1b6ca8", alpha=0.5, ms=4)
            axes.plot([place - 0.3, place + 0.3], [np.mean(values)] * 2, color="black")
    axes.set_xticks(range(len(TWINS)), list(TWINS), rotation=30, ha="right", fontsize=8)
    axes.set_title("each seed, the mean, and 1 % around that of 16 flat", fontsize=10)


def _information(axes: Axes, own: Sequence[dict[str, Any]]) -> None:
    """Bars of the share of the label's entropy that a twin's levels know, outermost at the left."""
    twins = [twin for twin in TWINS if any(_knows(each, twin) for each in own)]
    for place, twin in enumerate(twins):
        found = [each["information"] for each in own if _knows(each, twin)]
        for shift, stack in ((-0.2, "encoder"), (0.2, "decoder")):
            levels = [
                [level["share"] for level in known["levels"]]
                for each in found
                for layer, known in each.items()
                if layer.startswith(stack)
            ]
            begin = 0.0
            shares = np.mean(levels, axis=0) if levels else ()
            for share, colour in zip(shares, ("#1b6ca8", "#8ab4d4")):
                axes.barh(place + shift, 100 * share, 0.36, begin, color=colour)
                begin += 100 * share
    axes.set_yticks(range(len(twins)), twins, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("% of H(language): outer level dark, inner light")
    axes.set_title("known of the language, encoder above decoder", fontsize=10)


def _knows(each: dict[str, Any], twin: str) -> bool:
    return each["twin"] == twin and "information" in each


def _retention(axes: Axes, own: Sequence[dict[str, Any]]) -> None:
    found = [each["retention"] for each in own if each["twin"] == TREE and "retention" in each]
    for way, (label, colour, style) in _WAYS.items():
        if found:
            shares = [float(share) for share in found[0]["excess"]]
            means = [
                np.mean([each["excess"][share][way] for each in found])
                for share in found[0]["excess"]
            ]
            axes.plot(
                [100 * share for share in [*shares, 1]],
                [*means, 0],
                color=colour,
                linestyle=style,
                marker="o",
                label=label,
            )
    axes.set_xlabel("% of the experts kept in every layer")
    axes.set_ylabel("more loss, nats")
    axes.legend(fontsize=8)
    axes.set_title(f"experts of {TREE} left out, over languages", fontsize=10)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "learning"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
