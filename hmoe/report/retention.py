"""The section about retention: the loss of each label with some experts left out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hmoe.analysis import retention_scores
from hmoe.analysis.retention_scores import WAYS, GroupMatrix, RetentionScore, RetentionTable
from hmoe.report import drawing, views
from hmoe.report.content import HeatMap, Item, Note, Picture, Section, Side, Table
from hmoe.report.views import View
from hmoe.startup.command_line import command

_NAME = re.compile(r"retention-(\d+)\.json")
_TITLES = ("most used leaves", "most used groups", "random leaves", "random groups")


class _Matrix(NamedTuple):
    """What each outer group is worth to each label.

    Attributes:
      layer: the layer that groups were left out of; None for all layers at once.
      groups: the matrix.
    """

    layer: str | None
    groups: GroupMatrix

    @property
    def where(self) -> str:
        """The layer in words."""
        return "all layers" if self.layer is None else self.layer


def read(folder: str) -> tuple[RetentionScore, ...]:
    """Returns the scores of the last step that has some in a folder; () for none.

    Raises:
      ValueError: the file is damaged.
      OSError: it cannot be read.
    """
    found = [match for match in map(_NAME.fullmatch, os.listdir(folder)) if match]
    if not found:
        return ()
    last = max(found, key=lambda match: int(match[1]))
    return tuple(retention_scores.read(os.path.join(folder, last[0])))


def section(seen: Sequence[View]) -> Section:
    """Returns the section; for a run without scores, how to make them."""
    return Section(
        "retention",
        "Retention",
        "excess = loss of a label with a share of the experts kept - its loss with all; nats"
        " per target token",
        "Keeping the most used experts of a label should hurt less than keeping random ones;"
        " a group that a label needs stands out in the row of the label.",
        "All expert layers together, and where it is said one alone; every target token counts 1."
        " Weights are renormalized over the experts that are kept.",
        tuple(Side(view.title, tuple(_items(view))) for view in seen),
    )


def _items(view: View) -> list[Item]:
    if not view.retention:
        said = "This run has no scores with experts left out. This command makes them:"
        return [Note(said, command("ablate", model_dir=view.folder))]
    items: list[Item] = []
    found = retention_scores.table(view.retention)
    if len(found.shares):
        items += [_picture(view, found), _table(found)]
    matrices = [
        _Matrix(layer, retention_scores.group_matrix(view.retention, layer))
        for layer in _layers(view.retention)
    ]
    items += [_matrix_picture(view, each) for each in views.pictured(matrices)]
    return items + [_matrix_table(each) for each in matrices]


def _layers(scores: Sequence[RetentionScore]) -> list[str | None]:
    """Returns the layers that a group was left out of, each once; None for all at once."""
    without = (each for each in scores if each.kept == retention_scores.WITHOUT_GROUP)
    return list(dict.fromkeys(each.layer for each in without))


def _table(found: RetentionTable) -> Table:
    rows = [
        (
            f"{label}, {share:.0%} kept",
            _number(found.loss_of_all[row]),
            *(
                _with_deviation(found.excess[row, column, way], found.deviation[row, column, way])
                for way in range(len(WAYS))
            ),
        )
        for row, label in enumerate(found.labels)
        for column, share in enumerate(found.shares)
    ]
    columns = ("label", "loss with all", *_TITLES)
    caption = "Excess of the loss with some experts kept, ± standard deviation over seeds"
    return Table(caption, columns, tuple(rows))


def _picture(view: View, found: RetentionTable) -> Picture:
    """Draws the mean excess over labels against the share that is kept."""
    figure, axes = drawing.figure()
    words = []
    for way, (title, color) in enumerate(zip(_TITLES, drawing.COLORS)):
        values = found.excess[:, :, way]
        there = ~np.isnan(values).any(axis=0)
        if not there.any():
            continue
        means = values[:, there].mean(axis=0)
        style = "--" if title.startswith("random") else "-"
        axes.plot(found.shares[there], means, style, color=color, marker="o", label=title)
        words.append(f"{title}: {means[0]:.3f} at {found.shares[there][0]:.0%}")
    axes.set_xlabel("share of leaves kept")
    axes.set_ylabel("excess, nats")
    drawing.legend(axes, _TITLES)
    title = "Excess of the loss, mean over labels"
    alt = f"{title}. {'; '.join(words)}."
    return drawing.picture(figure, f"retention{view.suffix}", title, alt)


def _matrix_picture(view: View, found: _Matrix) -> HeatMap:
    excess, labels = found.groups.excess, found.groups.labels
    title = f"Excess of the loss of each label without one outer group of {found.where}"
    words = "; ".join(
        f"{label}: most without group {int(np.nanargmax(row))}, {np.nanmax(row):.3f}"
        for label, row in zip(labels, excess)
        if not np.isnan(row).all()
    )
    return HeatMap(
        views.file_name("without-group", found.where, view),
        title,
        f"{title}. {words}.",
        excess,
        labels,
        [str(number) for number in range(excess.shape[1])],
        label="excess, nats",
        scale="without-group",
    )


def _matrix_table(found: _Matrix) -> Table:
    excess, labels = found.groups.excess, found.groups.labels
    columns = ("label", *(f"without {number}" for number in range(excess.shape[1])))
    rows = [(label, *(_number(each) for each in row)) for label, row in zip(labels, excess)]
    caption = f"Excess of the loss without one outer group of {found.where}"
    return Table(caption, columns, tuple(rows))


def _with_deviation(value: float, deviation: float) -> str:
    spread = "" if np.isnan(deviation) else f" ± {deviation:.3f}"
    return f"{_number(value)}{spread}"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
