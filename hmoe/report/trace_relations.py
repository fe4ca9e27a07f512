"""The sections about leaves together: saturation, co-activation, and paths between layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hmoe.analysis.coactivation import Coactivation, coactivation
from hmoe.analysis.paths import paths
from hmoe.analysis.routed import sizes
from hmoe.analysis.saturation import Saturation, saturation
from hmoe.analysis.traces import LayerInfo
from hmoe.report import line_pictures, views
from hmoe.report.content import HeatMap, Item, Note, Section, Table
from hmoe.report.curves import Curve
from hmoe.report.line_pictures import Line
from hmoe.report.views import View
from hmoe.startup.command_line import command


def saturation_section(seen: Sequence[View]) -> Section:
    """Returns the section about checkpoints."""
    return Section(
        "saturation",
        "Saturation over checkpoints",
        "saturation(t) = mean over tokens of |E(t) and E(last)| / |E(last)|; E(t): the experts that"
        " process a token at checkpoint t",
        "1 means that a checkpoint already routes each token as the last one does; by chance it"
        " would be the value in brackets.",
        "Each layer and level; an inner expert counts as the same only within the same group. Every"
        " token that an expert processes at the last checkpoint counts 1.",
        views.sides_of_all(seen, _saturation_items),
    )


def _saturation_items(view: View) -> list[Item]:
    if len(view.traces) < 2:
        return [_one_trace(view)]
    layers = view.newest.manifest.layers
    try:
        found = [[saturation(t, view.newest, x.name) for t in view.traces] for x in layers]
    except ValueError as error:
        return [Note(f"These traces cannot be compared: {error}.")]
    steps = [trace.manifest.step for trace in view.traces]
    lines = [Line(x.name, None, _leaf_curve(steps, each)) for x, each in zip(layers, found)]
    axis = line_pictures.shared_axis("saturation of leaves", lines)._replace(highest=1.05)
    title = "Leaves of each checkpoint that are those of the last"
    picture = line_pictures.draw(f"saturation{view.suffix}", title, lines, axis)
    rows = [
        (
            f"{layer.name}/{level.name}",
            *(f"{each.shares[n]:.1%} ({each.even[n]:.1%})" for each in of_layer[:-1]),
        )
        for layer, of_layer in zip(layers, found)
        for n, level in enumerate(layer.levels)
    ]
    columns = ("layer and level", *(f"step {step:,}" for step in steps[:-1]))
    caption = f"Saturation against step {steps[-1]:,}, and by chance"
    return [picture, Table(caption, columns, tuple(rows))]


def _one_trace(view: View) -> Note:
    """Returns a line that says how to trace more checkpoints."""
    step = view.newest.manifest.step
    every = 'utils.run.eval_checkpoint_step = "all"'
    return Note(
        f"Saturation compares checkpoints, and this run has a trace of step {step:,} alone. This"
        " command traces all checkpoints that are kept:",
        command("trace", model_dir=view.folder, gin_param=every),
    )


def _leaf_curve(steps: Sequence[int], found: Sequence[Saturation]) -> Curve:
    return Curve(np.array(steps), np.array([each.shares[-1] for each in found]))


def coactivation_section(seen: Sequence[View]) -> Section:
    """Returns the section about leaves that process the same tokens."""
    return Section(
        "coactivation",
        "Co-activation",
        "share(i, j) = tokens that leaves i and j both process / tokens that i processes",
        "A bright cell means that two leaves work on the same tokens; leaves of one outer group"
        " that are bright together are chosen as a group.",
        "Each layer, all pairs of its leaves; every token counts 1. The diagonal is left out.",
        views.sides(seen, _coactivation_items),
    )


def _coactivation_items(view: View) -> list[Item]:
    layers = view.newest.manifest.layers
    found = [(layer, _without_diagonal(coactivation(view.newest, layer.name))) for layer in layers]
    if not any(np.nansum(shares) for _, shares in found):
        return [Note("No token of this trace is processed by more than one leaf.")]
    rows = [(layer.name, *_strongest(layer, shares)) for layer, shares in found]
    items = [_square(view, layer, shares) for layer, shares in views.pictured(found)]
    columns = ("layer", "strongest pair", "its share", "mean over pairs")
    table = Table("Co-activation of each layer", columns, tuple(rows))
    return [*items, *views.left_out(layers), table]


def _without_diagonal(found: Coactivation) -> np.ndarray:
    shares = found.shares.copy()
    np.fill_diagonal(shares, np.nan)
    return shares


def _strongest(layer: LayerInfo, shares: np.ndarray) -> tuple[str, str, str]:
    if shares.size == 1:
        return "-", "-", "-"
    first, second = np.unravel_index(int(np.nanargmax(shares)), shares.shape)
    pair = [views.leaf_name(int(each), sizes(layer)) for each in (first, second)]
    return " with ".join(pair), f"{shares[first, second]:.1%}", f"{np.nanmean(shares):.1%}"


def _square(view: View, layer: LayerInfo, shares: np.ndarray) -> Item:
    pair, share, mean = _strongest(layer, shares)
    names = _leaf_names(layer)
    title = f"{layer.name}: co-activation"
    return HeatMap(
        views.file_name("coactivation", layer.name, view),
        title,
        f"{title}. Strongest: {pair}, {share}; mean over pairs: {mean}.",
        shares,
        names,
        names,
        label="share of the row's tokens",
        scale="coactivation",
        every=_inside(layer),
    )


def path_section(seen: Sequence[View]) -> Section:
    """Returns the section about paths from layer to layer."""
    return Section(
        "paths",
        "Paths from layer to layer",
        "share(i, j) = tokens that leaf i and leaf j of the next layer process / their sum over j",
        "A row with one bright cell means that tokens of a leaf stay together in the next layer;"
        " where they scatter, the mean largest share is little above 1 / leaves.",
        "Each layer and the next one that reads the same sequence; every token counts 1 for each"
        " pair of its leaves.",
        views.sides(seen, _path_items),
    )


def _path_items(view: View) -> list[Item]:
    pairs = _pairs(view.newest.manifest.layers)
    if not pairs:
        return [Note("No two layers of this trace read the same sequence.")]
    found = [(one, two, paths(view.newest, one.name, two.name).shares) for one, two in pairs]
    rows = [
        (f"{one.name} to {two.name}", f"{_mean_largest(shares):.1%}", f"{1 / two.num_leaves:.1%}")
        for one, two, shares in found
    ]
    columns = ("layers", "mean largest share", "if tokens scatter")
    table = Table("How much tokens of a leaf stay together", columns, tuple(rows))
    items = [_path_picture(view, *each) for each in views.pictured(found)]
    return [*items, *views.left_out(found, "pairs of layers"), table]


def _pairs(layers: Sequence[LayerInfo]) -> list[tuple[LayerInfo, LayerInfo]]:
    return [(one, two) for one, two in zip(layers, layers[1:]) if one.sequence == two.sequence]


def _mean_largest(shares: np.ndarray) -> float:
    """Returns the mean over leaves that have tokens of the largest share in their row."""
    used = shares[shares.sum(axis=1) > 0]
    return float(used.max(axis=1).mean()) if len(used) else 0.0


def _path_picture(view: View, one: LayerInfo, two: LayerInfo, shares: np.ndarray) -> Item:
    title = f"From leaves of {one.name} (rows) to those of {two.name}"
    return HeatMap(
        views.file_name("path", one.name, view),
        title,
        f"{title}. Mean largest share {_mean_largest(shares):.1%}.",
        shares,
        _leaf_names(one),
        _leaf_names(two),
        label="share of the row's tokens",
        scale="path",
        every=_inside(two),
    )


def _leaf_names(layer: LayerInfo) -> list[str]:
    return [views.leaf_name(leaf, sizes(layer)) for leaf in range(layer.num_leaves)]


def _inside(layer: LayerInfo) -> int:
    return layer.levels[-1].num_experts if len(layer.levels) > 1 else 0
