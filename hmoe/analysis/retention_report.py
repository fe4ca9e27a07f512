"""The losses of a retention study as tables for a person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import RenderableType

from hmoe.analysis import retention_scores
from hmoe.analysis.retention_scores import RetentionScore
from hmoe.startup import tables

_MEANING = (
    "All numbers are cross entropy in nats per target token. Each label keeps the leaves, or the"
    " whole outer groups, that it uses most, or as many at random; weights are those among what is"
    " kept. Where a label needs few experts, what it uses most loses less than what is chosen at"
    " random."
)


def report(scores: Sequence[RetentionScore], *, styled: bool = False) -> str:
    """Returns the loss by label and share, and of each label without a group.

    Args:
      scores: the scores.
      styled: whether a terminal that knows styles reads it.
    """
    found: list[RenderableType] = [_shares(scores)]
    layers = dict.fromkeys(each.layer for each in scores if each.group is not None)
    found += [_groups(scores, layer) for layer in layers]
    return tables.rendered([*found, _MEANING], styled=styled)


def _shares(scores: Sequence[RetentionScore]) -> RenderableType:
    found = retention_scores.table(scores)
    names = [way.replace("_", " ") for way in retention_scores.WAYS]
    rows = tables.table("label", "kept", *names, "all experts")
    for label, name in enumerate(found.labels):
        for share, kept in enumerate(found.shares):
            losses = [_number(each) for each in found.loss[label, share]]
            rows.add_row(name, f"{kept:.0%}", *losses, _number(found.loss_of_all[label]))
    return tables.titled("Loss with a share of the experts", rows)


def _groups(scores: Sequence[RetentionScore], layer: str | None) -> RenderableType:
    found = retention_scores.group_matrix(scores, layer)
    rows = tables.table("label", *(f"without {n}" for n in range(found.excess.shape[1])))
    for name, excess in zip(found.labels, found.excess):
        rows.add_row(name, *(_number(each, signed=True) for each in excess))
    where = "every layer" if layer is None else layer
    return tables.titled(f"What the loss grows by without an outer group of {where}", rows)


def _number(value: float, *, signed: bool = False) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"
