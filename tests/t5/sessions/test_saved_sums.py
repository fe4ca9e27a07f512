"""Sums that are kept beside a checkpoint, and the curves of runs that were interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.layer import metric_sums
from hmoe.t5.graphs.sums import SumKey
from hmoe.t5.sessions import saved_sums
from hmoe.t5.sessions.estimator import SessionEstimator
from hmoe.t5.sessions.load_history import LoadHistory
from hmoe.t5.sessions.run_metrics import SumCollector
from hmoe.t5.sessions.saved_sums import SavedSums
from tests.t5 import tiny

# What a layer of one level has.
LEVEL = (metric_sums.LAYER, metric_sums.losses_name("outer"), metric_sums.load_name("outer"))
TIMES = ("time", "steps_per_second", "tokens_per_second")


def test_sums_are_read_as_they_were_written(tmp_path: Path) -> None:
    collector = SumCollector()
    collector.add(
        {SumKey("", "loss"): np.float32(0.1), SumKey("a/b", "load"): np.full([2, 3], 1 / 3)}
    )
    collector.add({SumKey("", "loss"): np.float32(1e-30), SumKey("a/b", "load"): math.pi})
    history = LoadHistory()
    history.add(7, {SumKey("a/b", name): np.full([2], 1 / 3) for name in LEVEL})
    saved_sums.write(f"{tmp_path}/model.ckpt-7", SavedSums(collector, history))
    saved = saved_sums.read(f"{tmp_path}/model.ckpt-7")
    assert saved is not None
    assert saved.history.state() == history.state()
    assert saved.history.metrics()
    read = saved.collector
    assert read.count == 2
    assert list(read.sums) == list(collector.sums)
    for key, value in collector.sums.items():
        np.testing.assert_array_equal(read.sums[key], value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"steps": 2}',
        '{"steps": 1, "sums": [[1]]}',
        '{"steps": 1, "sums": [], "loads": 7}',
    ],
)
def test_damaged_sums_are_lost(tmp_path: Path, text: str) -> None:
    assert saved_sums.read(f"{tmp_path}/model.ckpt-7") is None
    (tmp_path / "model.ckpt-7.progress.json").write_text(text, encoding="utf-8")
    assert saved_sums.read(f"{tmp_path}/model.ckpt-7") is None


def make(folder: Path, **arguments: Any) -> SessionEstimator:
    """An estimator that reports every third step."""
    estimator = tiny.make(folder, bindings=["dropout_rate = 0.1"], **arguments)
    session = estimator.session
    object.__setattr__(session, "log_every_steps", 3)
    return estimator


def curves(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in tiny.curves(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps in one go."""
    folder = tmp_path_factory.mktemp("whole")
    make(folder).train(tiny.input_fn(tiny.ids(7 * tiny.BATCH)), max_steps=7)
    return folder


@pytest.mark.slow
def test_a_run_in_parts_has_the_curves_of_one_in_one_go(whole: Path, tmp_path: Path) -> None:
    """It is evaluated between its parts, which changes no bit either."""
    for first, last in ((0, 2), (2, 4), (4, 5), (5, 7)):
        data = tiny.input_fn(tiny.ids(7 * tiny.BATCH), skip=first)
        lines: list[str] = []
        make(tmp_path, lines=lines).train(data, max_steps=last)
        assert not any("damaged" in line for line in lines)
        make(tmp_path).evaluate(tiny.input_fn(tiny.ids(8, seed=5)), name="held_out")
    assert [line["step"] for line in curves(tmp_path)] == [3, 6, 7]
    assert curves(tmp_path) == curves(whole)
    before, after = tiny.weights(whole), tiny.weights(tmp_path)
    assert set(before) == set(after)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.slow
def test_lost_sums_are_said(tmp_path: Path) -> None:
    make(tmp_path).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    lines: list[str] = []
    estimator = make(tmp_path, lines=lines)
    (tmp_path / "model.ckpt-2.manifest.json").unlink()
    (tmp_path / "model.ckpt-2.progress.json").unlink()
    estimator.train(tiny.input_fn(tiny.ids(24), skip=2), max_steps=3)
    assert (
        f"{tmp_path}/model.ckpt-2.progress.json is missing or damaged: the next line of "
        "metrics.jsonl is the mean of the steps after 2 alone"
    ) in lines
    assert [line["step"] for line in curves(tmp_path)] == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["name", "shape"])
def test_sums_of_another_configuration_are_dropped(tmp_path: Path, change: str) -> None:
    make(tmp_path).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    (tmp_path / "model.ckpt-2.manifest.json").unlink()
    path = tmp_path / "model.ckpt-2.progress.json"
    sums = json.loads(path.read_text(encoding="utf-8"))
    if change == "name":
        del sums["sums"][-1]
    else:
        sums["sums"][-1][2] = [1.0, 2.0, 3.0]
    path.write_text(json.dumps(sums), encoding="utf-8")
    lines: list[str] = []
    make(tmp_path, lines=lines).train(tiny.input_fn(tiny.ids(24), skip=2), max_steps=3)
    assert (
        f"{path} has the sums of another configuration: the next line of metrics.jsonl is the mean "
        "of the steps after 2 alone"
    ) in lines
    assert [line["step"] for line in curves(tmp_path)] == [2, 3]
