"""Graphs whose slices share operations compute what graphs compute whose slices are built anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import lower
from tests.t5 import tiny

MODEL = {"model": "hierarchical_tiny", "layout": "cpu_2x2"}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """For each graph that is lowered: whether its mesh reuses it, and its number of operations."""
    made: list[tuple[bool, int]] = []
    before = lower.lower

    def lower_and_count(some: mtf.Tensor, mesh_impl: Any, **options: Any) -> mtf.Lowering:
        lowering = before(some, mesh_impl, **options)
        made.append((mesh_impl.reuse_graph, len(tf.get_default_graph().get_operations())))
        return lowering

    for module in ("training", "evaluation", "decoding"):
        monkeypatch.setattr(f"hmoe.t5.graphs.{module}.lower", lower_and_count)
    return made


def without_times(line: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "time" and "second" not in name}


@pytest.mark.slow
def test_a_training_step_is_the_same_to_the_last_bit(
    tmp_path: Path, graphs: list[tuple[bool, int]]
) -> None:
    weights, losses = [], []
    for reuse in (True, False):
        folder = tmp_path / str(reuse)
        estimator = tiny.make(
            folder,
            bindings=["dropout_rate = 0.1", f"hmoe.Session.reuse_graph = {reuse}"],
            **MODEL,
        )
        estimator.train(tiny.input_fn(tiny.ids(2 * tiny.BATCH)), max_steps=2)
        weights.append(tiny.weights(folder))
        losses.append([without_times(line) for line in tiny.curves(folder)])
    assert [line["step"] for line in losses[0]] == [1, 2]
    assert losses[0] == losses[1]
    assert list(weights[0]) == list(weights[1])
    # Adafactor's as well.
    assert any("_slot_" in name for name in weights[0])
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name], err_msg=name)
    (reused, fewer), (anew, more) = graphs
    assert (reused, anew) == (True, False)
    assert fewer < 0.8 * more


@pytest.mark.slow
def test_the_switch_reaches_every_graph(tmp_path: Path, graphs: list[tuple[bool, int]]) -> None:
    data = tiny.ids(tiny.BATCH)
    bindings = ["hmoe.Session.reuse_graph = False"]
    estimator = tiny.make(tmp_path, bindings=bindings, **MODEL)
    estimator.train(tiny.input_fn(data), max_steps=1)
    estimator.evaluate(tiny.input_fn(data), steps=1)
    list(estimator.predict(tiny.input_fn(data)))
    scores = tiny.make(tmp_path, bindings=bindings, score_in_predict_mode=True, **MODEL)
    list(scores.predict(tiny.input_fn(data)))
    tiny.export(estimator, tmp_path / "export")
    assert [reused for reused, _ in graphs] == [False] * 5
