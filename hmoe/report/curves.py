"""Curves over training steps, from the lines of metrics of a run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from hmoe.report.runs import Run

# Steps that a windowed mean is over.
WINDOW = 100

# What the names of metrics of all expert layers together begin with.
_OF_ALL_LAYERS = "experts/"
# A metric that levels have, but layers from end to end have not.
_OF_LEVEL = re.compile(r"(?P<layer>.+)/(?P<level>\w+)/fraction_arrivals_dropped")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric over steps; each value is about the steps since the one before.

    Most are means over these steps, and windowed means are again means over steps. `max_violation`
    and `load_imbalance` are those of the demand summed over these steps, so that experts that take
    turns within them count as even; their windowed mean is a mean of such values. A number of dead
    experts counts those that no token chose in all these steps.

    Attributes:
      steps: int [reports], in order.
      values: float [reports].
    """

    steps: np.ndarray
    values: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """The number of steps that each value is about, int [reports].

        The first report is taken to cover as many as the second, or all steps before it if fewer.
        """
        spans = np.diff(self.steps, prepend=0)
        if len(spans) > 1:
            spans[0] = min(spans[0], spans[1])
        return np.maximum(spans, 1)

    def windowed(self, window: int = WINDOW) -> Curve:
        """Returns the mean over the last `window` steps at each report, by steps covered.

        At its start, the window is as long as the run so far.
        """
        starts = np.searchsorted(self.steps, self.steps - window, side="right")
        ends = np.arange(1, len(self.steps) + 1)
        weights = self.weights.astype(float)
        sums = np.concatenate([[0.0], np.cumsum(weights * self.values)])
        totals = np.concatenate([[0.0], np.cumsum(weights)])
        return Curve(self.steps, (sums[ends] - sums[starts]) / (totals[ends] - totals[starts]))


@dataclasses.dataclass(frozen=True)
class Place:
    """A level of a layer, whose metrics are "<layer>/<level>/<name>".

    Attributes:
      layer: such as "encoder/block_000/layer_001".
      level: such as "outer".
    """

    layer: str
    level: str

    def __str__(self) -> str:
        return f"{self.layer}/{self.level}"


def curve(run: Run, name: str) -> Curve | None:
    """Returns a metric over steps; None if no report has it."""
    found = [(line["step"], line[name]) for line in run.lines if name in line]
    if not found:
        return None
    steps, values = zip(*found)
    return Curve(np.array(steps, np.int64), np.array(values, float))


def places(run: Run) -> list[Place]:
    """Returns the levels of layers that a run has metrics of, in the order of the model."""
    found = (_OF_LEVEL.fullmatch(name) for name in run.names)
    return [Place(match["layer"], match["level"]) for match in found if match]


def has_experts(run: Run) -> bool:
    """Returns whether a run has expert layers; some of their metrics cannot be turned off."""
    return any(name.startswith(_OF_ALL_LAYERS) for name in run.names) or bool(places(run))


def load_curves(run: Run, place: Place) -> list[Curve]:
    """Returns the share of the demand of each expert over steps; [] if it was not recorded."""
    return list(_numbered(run, f"{place}/load_"))


def thinned(found: Curve, most: int) -> Curve:
    """Returns a curve of at most so many values: means over stretches of equally many reports."""
    if len(found.steps) <= most:
        return found
    parts = np.array_split(np.arange(len(found.steps)), most)
    weights = found.weights
    means = [np.average(found.values[part], weights=weights[part]) for part in parts]
    return Curve(np.array([found.steps[part[-1]] for part in parts]), np.array(means))


def _numbered(run: Run, prefix: str) -> Iterator[Curve]:
    number = 0
    while (found := curve(run, f"{prefix}{number}")) is not None:
        yield found
        number += 1
