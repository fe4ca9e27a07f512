"""Intervals and tests of equivalence, by hand and by tables of Student's t."""

from __future__ import annotations

import math

import pytest

from benchmarks import equivalence


def test_an_interval_by_hand() -> None:
    # Mean 3, standard deviation sqrt(2.5), 4 degrees of freedom: t(0.975) = 2.776.
    found = equivalence.interval([1, 2, 3, 4, 5])
    half = 2.776 * math.sqrt(2.5 / 5)
    assert found.mean == 3
    assert found.low == pytest.approx(3 - half, abs=1e-3)
    assert found.high == pytest.approx(3 + half, abs=1e-3)


def test_values_that_differ_by_less_than_the_margin() -> None:
    reference = [2.0, 2.1, 1.9, 2.05, 1.95]
    values = [2.001, 2.102, 1.899, 2.05, 1.951]
    found = equivalence.equivalence(values, reference, margin=0.02)
    assert found.holds
    # It holds where the interval of 90 % lies within the margin.
    assert -0.02 < found.difference.low < found.difference.high < 0.02


def test_noise_is_no_equivalence() -> None:
    """Values that differ by nothing on average, and by much in each pair."""
    found = equivalence.equivalence([2.3, 1.7, 2.4, 1.6, 2.0], [2.0] * 5, margin=0.02)
    assert not found.holds
    assert found.difference.mean == pytest.approx(0)


def test_the_p_value_is_at_the_level_where_the_interval_touches_the_margin() -> None:
    values = [0.01, 0.02, 0.03, 0.00, 0.015]
    bound = equivalence.interval(values, 0.9).high
    found = equivalence.equivalence(values, [0.0] * 5, margin=bound)
    assert found.p_value == pytest.approx(0.05, abs=1e-9)
