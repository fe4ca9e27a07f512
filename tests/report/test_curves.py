"""Curves over steps, compared with tables made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hmoe.report import curves, runs
from hmoe.report.curves import Curve, Place
from tests.report import made_runs

CURVE = Curve(np.array([20, 40, 100, 140]), np.array([3.0, 1.0, 2.0, 5.0]))


def test_a_windowed_mean_counts_steps() -> None:
    # 20, 20, 60 and 40 steps; a window of 100 steps ends with each report.
    assert list(CURVE.weights) == [20, 20, 60, 40]
    np.testing.assert_allclose(
        CURVE.windowed(100).values, [3, 2, (60 + 20 + 120) / 100, (120 + 200) / 100]
    )


def test_the_first_report_of_a_resumed_run_covers_no_more_than_the_second() -> None:
    resumed = Curve(np.array([510, 520]), np.array([4.0, 2.0]))
    assert list(resumed.weights) == [10, 10]
    assert list(resumed.windowed(100).values) == [4, 3]


def test_a_long_curve_is_thinned_to_means() -> None:
    found = curves.thinned(CURVE, 2)
    assert list(found.steps) == [40, 140]
    np.testing.assert_allclose(found.values, [2, (60 * 2 + 40 * 5) / 100])
    assert curves.thinned(CURVE, 4) is CURVE


def test_places_and_metrics_of_a_run(tmp_path: Path) -> None:
    run = runs.read(str(made_runs.make(tmp_path / "a", made_runs.lines(3))))
    outer, inner = Place(made_runs.LAYER, "outer"), Place(made_runs.LAYER, "inner")
    assert curves.places(run) == [outer, inner]
    assert [len(curves.load_curves(run, each)) for each in (outer, inner)] == [2, 3]
    loss = curves.curve(run, "loss")
    assert list(loss.steps) == [10, 20, 30]
    np.testing.assert_allclose(loss.values, [2, 1, 2 / 3])
    assert curves.curve(run, "accuracy") is None
