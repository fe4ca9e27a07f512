"""Pictures of curves over training steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hmoe.report import drawing
from hmoe.report.content import Picture
from hmoe.report.curves import Curve, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The most values of a line; more would only make the page larger.
_MOST = 160


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a picture.

    Attributes:
      name: its name in the legend.
      single: the values of single reports, drawn faintly; None for none.
      mean: the values that are drawn in full.
      dashed: values that are drawn dashed in the same color; None for none.
      dashed_name: what these are, behind the name of the line.
    """

    name: str
    single: Curve | None
    mean: Curve
    dashed: Curve | None = None
    dashed_name: str = ""

    @property
    def drawn(self) -> list[Curve]:
        """All curves of the line."""
        return [each for each in (self.mean, self.single, self.dashed) if each is not None]


class Axis(NamedTuple):
    """What pictures that stand side by side share.

    Attributes:
      label: what the vertical axis shows.
      last_step: where the horizontal axis ends.
      highest: where the vertical axis ends.
      lowest: where it begins.
    """

    label: str
    last_step: float
    highest: float
    lowest: float = 0.0


def shared_axis(label: str, lines: Iterable[Line], *, from_zero: bool = True) -> Axis:
    """Returns an axis that all of these lines fit in."""
    drawn = [each for line in lines for each in line.drawn]
    highest = max((float(each.values.max()) for each in drawn), default=1.0)
    lowest = 0.0 if from_zero else min(float(each.values.min()) for each in drawn)
    last = max((float(each.steps[-1]) for each in drawn), default=1.0)
    if highest <= lowest:
        highest = lowest + 1.0
    return Axis(label, last, highest + 0.05 * (highest - lowest), min(lowest, 0.0))


def draw(name: str, title: str, lines: Sequence[Line], axis: Axis) -> Picture:
    """Draws lines over steps."""
    figure, axes = drawing.figure(height=2.7 + 0.1 * len(lines))
    for line, color in zip(lines, drawing.colors(len(lines))):
        if line.single is not None:
            _plot(axes, line.single, color=color, alpha=0.3, linewidth=0.8)
        _plot(axes, line.mean, color=color, linewidth=1.6, label=drawing.name(line.name))
        if line.dashed is not None:
            _plot(axes, line.dashed, color=color, linewidth=1.6, linestyle="--")
    names = [drawing.name(line.name) for line in lines]
    dashed = next((line.dashed_name for line in lines if line.dashed is not None), "")
    if dashed:
        names.append(f"dashed: {dashed}")
        axes.plot([], [], color=drawing.INK, linewidth=1.6, linestyle="--", label=names[-1])
    axes.set_xlim(0, axis.last_step)
    axes.set_ylim(axis.lowest, axis.highest)
    axes.set_xlabel("training step")
    axes.set_ylabel(axis.label)
    drawing.legend(axes, names)
    return drawing.picture(figure, name, title, f"{title}. {_in_words(lines)}")


def _plot(axes: Axes, found: Curve, **style: object) -> None:
    shown = thinned(found, _MOST)
    marker = "o" if len(shown.steps) == 1 else ""  # a line of one point shows nothing
    axes.plot(shown.steps, shown.values, marker=marker, markersize=3, **style)  # type: ignore[arg-type]


def _in_words(lines: Sequence[Line]) -> str:
    """Returns the first and last values of each line."""
    ends = []
    for line in lines:
        ends.append(f"{line.name}: {_ends(line.mean)}")
        if line.dashed is not None:
            ends.append(f"{line.name}, {line.dashed_name}: {_ends(line.dashed)}")
    return "; ".join(ends) + "."


def _ends(curve: Curve) -> str:
    return (
        f"{_number(curve.values[0])} at step {curve.steps[0]}, "
        f"{_number(curve.values[-1])} at step {curve.steps[-1]}"
    )


def _number(value: np.floating) -> str:
    return f"{float(value):.3g}"
