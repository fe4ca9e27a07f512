"""The sections about which leaves process which labels and tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hmoe.analysis.routed import sizes
from hmoe.analysis.specialization import (
    DomainSpecialization,
    VocabularySpecialization,
    domain_specialization,
    vocabulary_specialization,
)
from hmoe.analysis.traces import LayerInfo
from hmoe.report import views
from hmoe.report.content import HeatMap, Item, Note, Section, Table
from hmoe.report.views import View

_MIN_COUNT = 10


def label_section(seen: Sequence[View]) -> Section:
    """Returns the section about labels."""
    return Section(
        "labels",
        "Share of each label's tokens",
        "share(leaf, label) = tokens of the label that the leaf processes / tokens of the label",
        "A row with one bright cell is a label with an expert of its own; rows that are all alike"
        " mean that experts do not part by this label.",
        "Each layer, leaves side by side by outer group; every token counts 1 for each leaf that"
        " processes it.",
        views.sides(seen, _label_items),
    )


def vocabulary_section(seen: Sequence[View]) -> Section:
    """Returns the section about tokens."""
    return Section(
        "vocabulary",
        "Vocabulary specialization",
        "share(leaf, id) = occurrences of the token id that the leaf processes / its occurrences",
        "1 means that each token always goes to the same leaf, whatever stands around it; an even"
        " spread would give the number of experts of a token over the number of leaves.",
        f"Each layer; token ids that occur at least {_MIN_COUNT} times. The largest share of an id"
        " is averaged over ids; that of a leaf is averaged over what it processes.",
        views.sides(seen, _vocabulary_items),
    )


def _label_items(view: View) -> list[Item]:
    trace = view.newest
    layers = trace.manifest.layers
    items: list[Item] = []
    for label in trace.manifest.labels:
        found = [domain_specialization(trace, layer.name, label) for layer in layers]
        pairs = list(zip(layers, found))
        items += [_heat(view, label, *pair) for pair in views.pictured(pairs)]
        items += views.left_out(layers)
        rows = [_label_row(layer, each) for layer, each in pairs]
        columns = ("layer", *found[0].labels) if found else ("layer",)
        caption = f"The leaf that processes most tokens of each {label}, with its share of them"
        items.append(Table(caption, columns, tuple(rows)))
    return items or [Note("The examples of this trace have no labels.")]


def _heat(view: View, label: str, layer: LayerInfo, found: DomainSpecialization) -> HeatMap:
    of_levels = sizes(layer)
    return HeatMap(
        views.file_name(f"label-{label}", layer.name, view),
        f"{layer.name}: share of each {label}'s tokens by leaf",
        f"{layer.name}: {_most(layer, found)}",
        found.shares,
        found.labels,
        [views.leaf_name(leaf, of_levels) for leaf in range(layer.num_leaves)],
        label="share of the label's tokens",
        scale=f"label-{label}",
        every=of_levels[-1] if len(of_levels) > 1 else 0,
    )


def _most(layer: LayerInfo, found: DomainSpecialization) -> str:
    cells = _label_row(layer, found)[1:]
    return "; ".join(f"{name} most at leaf {cell}" for name, cell in zip(found.labels, cells)) + "."


def _label_row(layer: LayerInfo, found: DomainSpecialization) -> tuple[str, ...]:
    cells = [
        f"{views.leaf_name(int(row.argmax()), sizes(layer))} ({row.max():.0%})"
        for row in found.shares
    ]
    return (layer.name, *cells)


def _vocabulary_items(view: View) -> list[Item]:
    rows = []
    for layer in view.newest.manifest.layers:
        found = vocabulary_specialization(view.newest, layer.name, min_count=_MIN_COUNT)
        rows.append((layer.name, *_vocabulary_cells(layer, found)))
    columns = ("layer", "ids", "mean largest share", "leaf of the highest share", "of the lowest")
    return [Table("Vocabulary specialization of each layer", columns, tuple(rows))]


def _vocabulary_cells(layer: LayerInfo, found: VocabularySpecialization) -> list[str]:
    by_leaf = found.by_leaf
    if not len(found.token) or np.isnan(by_leaf).all():
        return [str(len(found.token)), "-", "-", "-"]
    ends = [int(np.nanargmax(by_leaf)), int(np.nanargmin(by_leaf))]
    named = [f"{views.leaf_name(leaf, sizes(layer))} ({by_leaf[leaf]:.2f})" for leaf in ends]
    return [str(len(found.token)), f"{found.mean:.2f}", *named]
