"""The section about retention: the loss of each label with some experts left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hmoe.analysis import retention_scores
from hmoe.analysis.retention_scores import (
    WAYS,
    GroupMatrix,
    RetentionScore,
    RetentionStudy,
    RetentionTable,
)
from hmoe.report import drawing, views
from hmoe.report.content import HeatMap, Item, Note, Picture, Section, Side, Table
from hmoe.report.views import View
from hmoe.startup.command_line import command
from hmoe.storage import study_files

_TITLES = ("most used leaves", "most used groups", "random leaves", "random groups")


class _Matrix(NamedTuple):
    """What each outer group is worth to each value of a label.

    Attributes:
      label: name of the label.
      layer: the layer that groups were left out of; None for all layers at once.
      groups: the matrix.
    """

    label: str
    layer: str | None
    groups: GroupMatrix

    @property
    def where(self) -> str:
        """The layer in words."""
        return "all layers" if self.layer is None else self.layer


def read(folder: str) -> tuple[RetentionStudy, ...]:
    """Returns the scores of the last step that has some in a folder, by label; () for none.

    Raises:
      ValueError: a file is damaged.
      OSError: it cannot be read.
    """
    found = [
        match for match in map(study_files.RETENTION.fullmatch, sorted(os.listdir(folder))) if match
    ]
    last = max((int(match[1]) for match in found), default=0)
    newest = [match[0] for match in found if int(match[1]) == last]
    return tuple(retention_scores.read(os.path.join(folder, name)) for name in newest)


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
        " Weights are renormalized over the experts that are kept. What a label uses most is what"
        " the trace counts, which may be of the examples that are scored.",
        tuple(Side(view.title, tuple(_items(view))) for view in seen),
    )


def _items(view: View) -> list[Item]:
    if not view.retention:
        if not view.has_experts:
            return [views.no_trace(view)]
        said = "This run has no scores with experts left out. This command makes them:"
        return [Note(said, command("ablate", model_dir=view.folder))]
    return [item for study in view.retention for item in _of_study(view, study)]


def _of_study(view: View, study: RetentionStudy) -> list[Item]:
    said = (
        f"Step {study.step:,}, by {study.label}; what is used most is counted in {study.trace}"
        f" (hmoe {study.version})."
    )
    items: list[Item] = [Note(said)]
    found = retention_scores.table(study.scores)
    if len(found.shares):
        items += [_picture(view, study.label, found), _table(study.label, found)]
    matrices = [
        _Matrix(study.label, layer, retention_scores.group_matrix(study.scores, layer))
        for layer in _layers(study.scores)
    ]
    items += [_matrix_picture(view, each) for each in views.pictured(matrices)]
    items += views.left_out(matrices)
    return items + [_matrix_table(each) for each in matrices]


def _layers(scores: Sequence[RetentionScore]) -> list[str | None]:
    """Returns the layers that a group was left out of, each once; None for all at once."""
    without = (each for each in scores if each.kept == retention_scores.WITHOUT_GROUP)
    return list(dict.fromkeys(each.layer for each in without))


def _table(label: str, found: RetentionTable) -> Table:
    rows = [
        (
            f"{name}, {share:.0%} kept",
            _number(found.loss_of_all[row]),
            *(
                _with_deviation(found.excess[row, column, way], found.deviation[row, column, way])
                for way in range(len(WAYS))
            ),
        )
        for row, name in enumerate(found.labels)
        for column, share in enumerate(found.shares)
    ]
    columns = (label, "loss with all", *_TITLES)
    caption = (
        f"Excess of the loss with some experts kept, by {label}, ± standard deviation of a draw"
    )
    return Table(caption, columns, tuple(rows))


def _picture(view: View, label: str, found: RetentionTable) -> Picture:
    """Draws the mean excess over the values of a label against the share that is kept."""
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
    title = f"Excess of the loss, mean over each {label}"
    alt = f"{title}. {'; '.join(words)}."
    return drawing.picture(figure, views.file_name("retention", label, view), title, alt)


def _matrix_picture(view: View, found: _Matrix) -> HeatMap:
    excess, labels = found.groups.excess, found.groups.labels
    title = f"Excess of the loss of each {found.label} without one outer group of {found.where}"
    words = "; ".join(
        f"{label}: most without group {int(np.nanargmax(row))}, {np.nanmax(row):.3f}"
        for label, row in zip(labels, excess)
        if not np.isnan(row).all()
    )
    return HeatMap(
        views.file_name(f"without-group-{found.label}", found.where, view),
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
    columns = (found.label, *(f"without {number}" for number in range(excess.shape[1])))
    rows = [(label, *(_number(each) for each in row)) for label, row in zip(labels, excess)]
    caption = f"Excess of the loss by {found.label} without one outer group of {found.where}"
    return Table(caption, columns, tuple(rows))


def _with_deviation(value: float, deviation: float) -> str:
    spread = "" if np.isnan(deviation) else f" ± {deviation:.3f}"
    return f"{_number(value)}{spread}"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
