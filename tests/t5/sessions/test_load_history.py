"""MaxVio of single steps and of many together: tables by hand, and a run's own numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.layer import metric_sums
from hmoe.report import curves, training
from hmoe.t5.graphs.sums import SumKey
from hmoe.t5.sessions import load_history, run_metrics
from hmoe.t5.sessions.load_history import LoadHistory
from tests import tolerances
from tests.t5 import tiny

STEPS, WINDOW = "max_violation_of_steps", "max_violation_of_100_steps"
LEVELS = ("outer", "inner")


def sums(layer: str, **loads: list) -> dict[SumKey, np.ndarray]:
    """The sums of a layer of levels with these loads, in an order that means nothing."""
    found = {SumKey(layer, metric_sums.LAYER): np.zeros(3)}
    for level, load in sorted(loads.items()):
        found[SumKey(layer, metric_sums.load_name(level))] = np.array(load, np.float32)
        found[SumKey(layer, metric_sums.losses_name(level))] = np.zeros(2)
    return {SumKey("", "loss"): np.array(1.0), **found}


def test_experts_that_take_turns() -> None:
    """Groups are even in each step; of the three experts inside, another is preferred each time."""
    even = [6.0, 6.0]
    first = sums("l", outer=even, inner=[[4, 1, 1], [2, 2, 2]])
    second = sums("l", outer=even, inner=[[1, 4, 1], [2, 2, 2]])
    third = sums("l", outer=even, inner=[[1, 1, 4], [2, 2, 2]])
    history = LoadHistory()
    for step in range(1, 100):
        history.add(step, (first, second, third)[step % 3])
    # In a group 3 * 4 / 6 - 1, and no violation in the other; of the layer 6 * 4 / 12 - 1.
    single = {f"l/outer/{STEPS}": 0.0, f"l/inner/{STEPS}": 0.5, f"l/{STEPS}": 1.0}
    assert history.metrics() == pytest.approx(single)
    history.begin_report()
    history.add(100, second)
    whole = {f"l/outer/{WINDOW}": 0.0}
    # 33 times the first and third and 34 times the second: 3 * (136 + 66) / 600 - 1, halved.
    whole[f"l/inner/{WINDOW}"] = 0.005
    whole[f"l/{WINDOW}"] = 6 * (4 * 34 + 66) / 1200 - 1
    assert history.metrics() == pytest.approx({**single, **whole})
    history.begin_report()
    history.add(101, second)
    assert set(history.metrics()) == set(single)


def test_totals_of_many_steps_tell_nothing_of_single_ones() -> None:
    history = LoadHistory()
    history.add(50, sums("l", outer=[90.0, 30.0]), 50)
    assert history.metrics() == {}
    history.add(100, sums("l", outer=[30.0, 90.0]), 50)
    assert history.metrics() == {f"l/outer/{WINDOW}": 0.0, f"l/{WINDOW}": 0.0}
    history.begin_report()
    history.add(200, sums("l", outer=[90.0, 30.0]), 100)
    assert history.metrics() == {f"l/outer/{WINDOW}": 0.5, f"l/{WINDOW}": 0.5}


def test_loops_that_step_over_a_hundred_have_no_windows() -> None:
    history = LoadHistory()
    for step in range(60, 1_000, 60):
        history.add(step, sums("l", outer=[3.0, 1.0]), 60)
    history.add(2_000, sums("l", outer=[3.0, 1.0]), 1_000)
    assert history.metrics() == {}


def test_metrics_that_are_turned_on_within_a_window() -> None:
    history = LoadHistory()
    for step in range(1, 301):
        with_loads = step > 140
        history.add(step, sums("l", outer=[3.0, 1.0]) if with_loads else {})
        assert (f"l/{WINDOW}" in history.metrics()) == (step == 300)


def test_a_part_of_a_hundred_steps_is_no_hundred() -> None:
    """As where training begins with a model of another step, or has lost its history."""
    history = LoadHistory()
    for step in range(1_001, 1_301):
        if step == 1_150:
            history = LoadHistory()
        history.add(step, sums("l", outer=[3.0, 1.0]))
        assert (f"l/{WINDOW}" in history.metrics()) == (step in (*range(1_100, 1_150), 1_300))


def test_layers_without_metrics_and_dense_models() -> None:
    history = LoadHistory()
    history.add(1, {SumKey("", "loss"): np.array(2.0)})
    history.add(2, {SumKey("l", metric_sums.losses_name("outer")): np.zeros(2)})
    assert history.metrics() == {}


def test_what_is_kept_is_read_again() -> None:
    history = LoadHistory()
    for step in range(99, 103):
        history.add(step, sums("a/b", outer=[1 / 3, 2 / 3], inner=[[1, 2, 3], [0, 0, 0.1]]))
    again = LoadHistory.of_state(json.loads(json.dumps(history.state())))
    assert again.metrics() == history.metrics()
    assert again.state() == history.state()
    assert again.fits(sums("a/b", outer=[1, 2], inner=[[1, 2, 3], [0, 0, 1]]))
    assert not again.fits(sums("a/b", outer=[1, 2, 3], inner=[[1, 2, 3], [0, 0, 1]]))
    assert not again.fits(sums("a/c", outer=[1, 2], inner=[[1, 2, 3], [0, 0, 1]]))


@pytest.mark.parametrize(
    "change",
    [{"single": 7}, {"window": {"a": 7}}, {"window": {"a": [[1], [1, 2]]}}, {"num_single": None}],
)
def test_what_is_damaged_is_refused(change: dict[str, Any]) -> None:
    state = {**LoadHistory().state(), **change}
    with pytest.raises((ValueError, TypeError, KeyError)):
        LoadHistory.of_state(state)


def test_a_report_draws_these_metrics() -> None:
    assert curves.WINDOW == run_metrics.WINDOW
    names = (run_metrics.VIOLATION_OF_STEPS.name, run_metrics.VIOLATION_OF_WINDOW.name)
    assert (training._VIOLATION.metrics[0], training._VIOLATION.dashed) == names == (STEPS, WINDOW)


def train(folder: Path, every: int, *parts: int) -> list[dict[str, float]]:
    """The lines of a run of seven steps that is interrupted after these."""
    first = 0
    for last in (*parts, 7):
        bindings = ["hmoe.HierarchicalMoE.metrics = 'full'"]
        estimator = tiny.make(folder, "hierarchical_tiny", bindings=bindings)
        object.__setattr__(estimator.session, "log_every_steps", every)
        data = tiny.input_fn(tiny.ids(7 * tiny.BATCH), skip=first)
        estimator.train(data, max_steps=last)
        first = last
    return tiny.curves(folder)


@pytest.mark.slow
def test_single_steps_and_windows_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the lines of single steps, which are the same training."""
    monkeypatch.setattr(load_history, "WINDOW", 4)
    singles = train(tmp_path / "singles", 1)
    lines = train(tmp_path / "parts", 3, 5)
    assert [line["step"] for line in lines] == [3, 6, 7]
    layers = {name.rsplit("/", 2)[0] for name in singles[0] if name.endswith(f"/outer/{STEPS}")}
    assert len(layers) == 2
    for layer in layers:
        for place in (layer, *(f"{layer}/{level}" for level in LEVELS)):
            of_steps = [line[f"{place}/max_violation"] for line in singles]
            assert [line[f"{place}/{STEPS}"] for line in singles] == of_steps
            for line, part in zip(lines, (of_steps[:3], of_steps[3:6], of_steps[6:])):
                np.testing.assert_allclose(
                    line[f"{place}/{STEPS}"], np.mean(part), **tolerances.SAME
                )
            assert [f"{place}/{WINDOW}" in line for line in lines] == [False, True, False]
        # No row has padding, so that each step has the same demand.
        shares = [[line[f"{layer}/outer/load_{i}"] for i in range(2)] for line in singles[:4]]
        expected = 2 * np.mean(shares, axis=0).max() - 1
        np.testing.assert_allclose(lines[1][f"{layer}/outer/{WINDOW}"], expected, **tolerances.SAME)
