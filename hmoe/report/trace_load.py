"""The section about the load of experts, by siblings and by leaf, from traces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hmoe.analysis.load import Balance, LayerLoad, load
from hmoe.report import views
from hmoe.report.content import HeatMap, Item, Section, Table
from hmoe.report.views import View

_COLUMNS = (
    "layer and level",
    "experts",
    "MaxVio",
    "Gini",
    "effective",
    "dead",
    "no room",
    "tokens",
)


def section(seen: Sequence[View]) -> Section:
    """Returns the section."""
    return Section(
        "load",
        "Load of experts in the trace",
        "MaxVio = n * max(p) - 1; Gini = sum over i, j of |p_i - p_j| / (2 n); effective experts ="
        " exp(H(p)); p: the shares of the n experts of one parent; dead = experts with p = 0; no"
        " room = choices that no expert had room for / choices",
        "Gini is 0 and all experts are effective where the load is even; a dead expert got none"
        " of the choices of its parent.",
        "Each layer: its levels among siblings (means over parents, weighted by their choices), and"
        " its leaves all together. Every choice that the policy uses counts 1, before capacity.",
        views.sides(seen, _items),
    )


def _items(view: View) -> list[Item]:
    layers = view.newest.manifest.layers
    loads = [load(view.newest, layer.name) for layer in layers]
    rows: list[tuple[str, ...]] = []
    for layer, found in zip(layers, loads):
        rows += _rows(layer.name, found)
    table = Table("Load of each layer and level", _COLUMNS, tuple(rows))
    return [*_pictures(view, loads), table]


def _rows(layer: str, found: LayerLoad) -> list[tuple[str, ...]]:
    rows = [
        (
            f"{layer}/{each.level.name}",
            str(each.level.num_experts),
            *_measures(each.chosen),
            f"{each.dropped:.2%}",
            f"{each.tokens:,}",
        )
        for each in found.levels
    ]
    leaves = found.chosen_leaves
    rows.append((f"{layer}, leaves", str(leaves.counts.size), *_measures(leaves), "", ""))
    return rows


def _measures(balance: Balance) -> list[str]:
    """Returns the measures of a level: means over parents by choices, and the number of dead."""
    totals = balance.counts.sum(axis=-1)
    weights = totals if totals.sum() else np.ones_like(totals)
    means = [
        float(np.average(each, weights=weights))
        for each in (balance.max_violation, balance.gini, balance.effective_experts)
    ]
    return [f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[2]:.2f}", str(int(balance.dead.sum()))]


def _pictures(view: View, loads: Sequence[LayerLoad]) -> list[HeatMap]:
    """Returns a picture of the load of all leaves, for layers with equally many."""
    layers = view.newest.manifest.layers
    pictures = []
    for sizes in dict.fromkeys(_sizes(found) for found in loads):
        alike = [n for n, found in enumerate(loads) if _sizes(found) == sizes]
        shares = np.stack([loads[n].chosen_leaves.shares[0] for n in alike])
        relative = shares * shares.shape[1]
        names = [layers[n].name for n in alike]
        shape = "x".join(map(str, sizes))
        alt = "; ".join(
            f"{name}: the fullest leaf is {views.leaf_name(int(row.argmax()), sizes)} with"
            f" {row.max():.2f} times the mean, the emptiest"
            f" {views.leaf_name(int(row.argmin()), sizes)} with {row.min():.2f}"
            for name, row in zip(names, relative)
        )
        pictures.append(
            HeatMap(
                f"load-{shape}{view.suffix}",
                "Load of each leaf, 1 where even; leaves are numbered by their experts, outermost"
                " first",
                f"Load of each leaf. {alt}.",
                relative,
                names,
                [views.leaf_name(leaf, sizes) for leaf in range(relative.shape[1])],
                label="times the mean",
                scale="load",
                every=sizes[-1] if len(sizes) > 1 else 0,
            )
        )
    return pictures


def _sizes(found: LayerLoad) -> tuple[int, ...]:
    return tuple(each.level.num_experts for each in found.levels)
