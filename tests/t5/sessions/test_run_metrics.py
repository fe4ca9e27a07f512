"""The table of a run's metrics, against what a dense model's run writes and returns."""

from __future__ import annotations

from pathlib import Path

from hmoe.t5.sessions import run_metrics
from tests.t5 import tiny


def names(*where: str) -> set[str]:
    return {metric.name for metric in run_metrics.RUN_METRICS if metric.where in where}


def test_table_has_the_metrics_of_training_and_evaluation(tmp_path: Path) -> None:
    estimator = tiny.make(tmp_path)
    estimator.train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    # The first report has no speed yet.
    first, second = tiny.curves(tmp_path)
    assert set(second) == names("training", "both")
    assert set(second) - set(first) == {"steps_per_second", "tokens_per_second"}
    numbers = estimator.evaluate(tiny.input_fn(tiny.ids(8)))
    assert set(numbers) == names("evaluation", "both") | {"global_step"}


def test_table_is_complete_and_has_each_name_once() -> None:
    rows = run_metrics.RUN_METRICS
    assert len({row.name for row in rows}) == len(rows)
    assert {row.where for row in rows} == {"training", "evaluation", "both"}
    assert all(row.unit and row.meaning for row in rows)
