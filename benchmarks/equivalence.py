"""Means with intervals, and a test of equivalence, for runs that are paired by their seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its interval by Student's t."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of at least two values with its interval."""
    mean, error, free = np.mean(values), stats.sem(values), len(values) - 1
    half = float(stats.t.ppf(0.5 + confidence / 2, free) * error)
    return Interval(float(mean), float(mean) - half, float(mean) + half)


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (Schuirmann 1987) of paired values.

    Attributes:
      difference: the mean difference, with the interval of confidence 1 - 2 * level.
      margin: how large a difference counts as none.
      p_value: the larger of the p-values of both tests.
      level: the level of the test.
    """

    difference: Interval
    margin: float
    p_value: float
    level: float

    @property
    def holds(self) -> bool:
        """Whether the values are equivalent within the margin at the level."""
        return self.p_value < self.level


def equivalence(
    values: Sequence[float], reference: Sequence[float], margin: float, level: float = 0.05
) -> Equivalence:
    """Tests whether values differ from a reference by less than a margin.

    Args:
      values: of runs.
      reference: of the runs with the same seeds.
      margin: in the unit of the values.
      level: the level of the test.
    """
    differences = np.subtract(values, reference)
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    found = interval(differences.tolist(), 1 - 2 * level)
    return Equivalence(found, margin, float(max(above, below)), level)
