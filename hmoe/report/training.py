"""Sections of a report about training: losses, load and drops over steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hmoe.report import curves, hover, line_pictures
from hmoe.report.content import Item, Note, Section, Side, Table
from hmoe.report.curves import WINDOW
from hmoe.report.line_pictures import Line
from hmoe.report.runs import Run

# Metrics of levels that are shares, written in percent.
_SHARES = ("fraction_tokens_dropped", "fraction_arrivals_dropped", "expert_usage")
_LOSSES = {"loss": "loss", "cross_ent_loss": "cross entropy"}


class _Kind(NamedTuple):
    """A metric of levels, or of layers, that is drawn over steps.

    Attributes:
      metrics: its names, the best first; the first that all reports of a run have is drawn.
      label: of its axis.
      name: of its files.
      title: of its pictures.
      dashed: name of a metric that is drawn dashed beside it; None for none.
    """

    metrics: tuple[str, ...]
    label: str
    name: str
    title: str
    dashed: str | None = None


class _Which(NamedTuple):
    """What a picture is of.

    Attributes:
      name: for the names of files.
      title: for a reader.
    """

    name: str
    title: str


# No level has a name with a hyphen.
_LEAVES = _Which("of-leaves", "leaves")

_VIOLATION = _Kind(
    ("max_violation_of_steps", "max_violation"),
    "MaxVio",
    "maxvio",
    "MaxVio over steps",
    dashed=f"max_violation_of_{WINDOW}_steps",
)
_DROPPED = _Kind(
    ("fraction_tokens_dropped",),
    "share of tokens dropped",
    "dropped",
    "Tokens dropped over steps",
)


def sections(runs: Sequence[Run]) -> list[Section]:
    """Returns the sections about training of one run, or of two side by side."""
    found = [_loss(runs)]
    if any(curves.places(run) for run in runs):
        found += [_load(runs), _dropped(runs), _at_the_end(runs)]
    return found


def side_title(runs: Sequence[Run], run: Run) -> str:
    """Returns the heading of what is shown of a run: none where there is only one."""
    return run.folder if len(runs) > 1 else ""


def _loss(runs: Sequence[Run]) -> Section:
    lines = [_loss_lines(run) for run in runs]
    sides = []
    for number, run in enumerate(runs):
        axis = line_pictures.shared_axis("nats", sum(lines, []))
        name = f"loss{_suffix(runs, number)}"
        items: list[Item] = [_nothing("a loss")]
        if lines[number]:
            title = "Loss and cross entropy over steps"
            items = [line_pictures.draw(name, title, lines[number], axis)]
        sides.append(Side(side_title(runs, run), tuple(items)))
    return Section(
        "loss",
        "Loss",
        "cross entropy = -sum of ln p(target) / targets that are not padding; loss = -sum of"
        " ln p(target) / all target positions + weighted losses of expert layers + output z-loss",
        "Lower is better; compare runs by their cross entropy, since the loss also holds what"
        " balances the experts, and counts padding.",
        f"The whole model, training batches. Faint: the mean since the report before; full: the"
        f" mean over {WINDOW} steps.",
        tuple(sides),
    )


def _loss_lines(run: Run) -> list[Line]:
    found = ((title, curves.curve(run, name)) for name, title in _LOSSES.items())
    return [Line(title, curve, curve.windowed()) for title, curve in found if curve is not None]


def _load(runs: Sequence[Run]) -> Section:
    sides = _level_sides(runs, _VIOLATION)
    names = [f"levels-over-steps{_suffix(runs, number)}" for number in range(len(runs))]
    charts = [hover.chart(run, name) for run, name in zip(runs, names)]
    sides = [
        side if chart is None else Side(side.title, (*side.items, chart))
        for side, chart in zip(sides, charts)
    ]
    return Section(
        "load-over-steps",
        "Load over steps",
        "MaxVio = X * highest demand / sum of demand - 1, over the X experts of one parent, as a"
        " mean over parents by demand; of leaves: over all experts of a layer",
        "0 is an even load; 1 means that the fullest expert is wanted twice as often as the mean."
        " Where the dashed line is much lower than the full one, experts take turns: each step is"
        " uneven, and none lies idle for long.",
        "Each layer and level, and its leaves; every choice of a real token counts 1, before policy"
        " and capacity. Full: MaxVio of single steps, the mean over the last"
        f" {WINDOW}; faint: the mean since the report before; dashed: MaxVio of the demand summed"
        f" over {WINDOW} steps. Where a run does not tell of single steps, as on a TPU, full"
        " and faint are MaxVio of the demand summed since the report before.",
        tuple(sides),
    )


def _dropped(runs: Sequence[Run]) -> Section:
    return Section(
        "dropped-over-steps",
        "Tokens dropped over steps",
        "dropped at a level = tokens of the layer that are lost there / real tokens of the layer",
        "Tokens that are dropped pass a layer by its residual connection alone; the sum over levels"
        " is the layer's share.",
        "Each layer and level; every real token counts 1. Faint: the share since the report before;"
        f" full: the mean over {WINDOW} steps.",
        tuple(_level_sides(runs, _DROPPED)),
    )


def _level_sides(runs: Sequence[Run], kind: _Kind) -> list[Side]:
    """Returns, for each run, a picture of a metric for each level, all on the same axes."""
    by_run = [_level_lines(run, kind) for run in runs]
    drawn = [line for levels in by_run for lines in levels.values() for line in lines]
    axis = line_pictures.shared_axis(kind.label, drawn)
    sides = []
    for number, (run, levels) in enumerate(zip(runs, by_run)):
        items: list[Item] = [
            line_pictures.draw(
                f"{kind.name}-{which.name}{_suffix(runs, number)}",
                f"{kind.title}, {which.title}",
                lines,
                axis,
            )
            for which, lines in levels.items()
        ]
        sides.append(Side(side_title(runs, run), tuple(items or [_nothing(f"{kind.label!r}")])))
    return sides


def _level_lines(run: Run, kind: _Kind) -> dict[_Which, list[Line]]:
    """Returns the lines of each level, and of the leaves: one or two for each layer."""
    found: dict[_Which, list[Line]] = {}
    places = curves.places(run)
    for place in places:
        lines = found.setdefault(_Which(place.level, f"level {place.level!r}"), [])
        lines += _lines(run, str(place), place.layer, kind)
    for layer in dict.fromkeys(place.layer for place in places):
        # Of one level alone, the experts are the leaves.
        if sum(place.layer == layer for place in places) > 1:
            found.setdefault(_LEAVES, []).extend(_lines(run, layer, layer, kind))
    return {which: lines for which, lines in found.items() if lines}


def _lines(run: Run, prefix: str, layer: str, kind: _Kind) -> list[Line]:
    """Returns the lines of a level or layer, whose metrics begin with `prefix`."""
    known = [curves.curve(run, f"{prefix}/{metric}") for metric in kind.metrics]
    present = [each for each in known if each is not None]
    if not present:
        return []
    found = max(present, key=lambda each: len(each.steps))  # of equally long ones the first
    summed = curves.curve(run, f"{prefix}/{kind.dashed}") if kind.dashed else None
    return [Line(layer, found, found.windowed(), summed, f"{WINDOW} steps together")]


def _at_the_end(runs: Sequence[Run]) -> Section:
    sides = [Side(side_title(runs, run), (_end_table(run),)) for run in runs if curves.places(run)]
    return Section(
        "end-of-training",
        "Levels at the end of training",
        "MaxVio of single steps: their mean; MaxVio between reports: that of the"
        " demand since the report before; tokens dropped = tokens of the layer that are lost there"
        " / its real tokens; arrivals dropped = arrivals without a slot / arrivals; expert usage ="
        " filled slots / slots; router confidence = sum of weights of filled slots / filled slots;"
        " entropy = mean over tokens of -sum(p * ln(p)), p: what the gate gives each expert",
        "Dead experts are those that no token chose since the report before: capacity that is paid"
        " for and not used.",
        f"Each layer and level; means over the last {WINDOW} steps of what each report says of the"
        " steps since the one before, and dead experts of the last report. A dash: not recorded"
        ' (entropy needs hmoe.HierarchicalMoE.metrics = "full").',
        tuple(sides),
    )


def _end_table(run: Run) -> Table:
    columns = ("layer and level", *hover.METRICS.values(), "dead experts")
    rows = []
    for place in curves.places(run):
        cells = [_last_mean(run, f"{place}/{name}", _form(name)) for name in hover.METRICS]
        dead = curves.curve(run, f"{place}/dead_experts")
        cells.append("-" if dead is None else f"{dead.values[-1]:g}")
        rows.append((str(place), *cells))
    return Table(f"Step {run.last_step:,}", columns, tuple(rows))


def _form(metric: str) -> str:
    return "{:.2%}" if metric in _SHARES else "{:.3f}"


def _last_mean(run: Run, name: str, form: str) -> str:
    found = curves.curve(run, name)
    return "-" if found is None else form.format(found.windowed().values[-1])


def _suffix(runs: Sequence[Run], number: int) -> str:
    return "" if len(runs) == 1 else f"-{'ab'[number]}"


def _nothing(what: str) -> Note:
    return Note(f"This run has no report of {what}.")
