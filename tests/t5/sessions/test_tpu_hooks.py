"""Loops of several steps without a visit of the host, on a simulated mesh."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.startup.errors import RunFailedError
from hmoe.storage import checkpoint_files
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import TRAIN
from hmoe.t5.graphs.sums import model_sum
from hmoe.t5.sessions import run_metrics
from hmoe.t5.sessions.loss_alarm import LossAlarm
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.tpu_hooks import LoopAlarmHook, LoopReportHook
from tests import graphs, tolerances
from tests.t5 import tiny

LOOPS = (3, 2, 4)
LAST = sum(LOOPS)


def test_loops_report_and_save_what_their_steps_do(tmp_path: Path) -> None:
    bindings = ["hmoe.TopKRouter.bias_update_rate = 0.1"]
    settings = tiny.make(
        tmp_path, "hierarchical_tiny", "cpu_2x2", bindings, save_checkpoints_steps=5
    ).settings
    lines: list[str] = []
    session = SessionSettings(say=lines.append, log_every_steps=4)
    fetched: list[dict] = []
    with tf.Graph().as_default():
        tf.train.create_global_step()
        given = {name: tf.constant(ids) for name, ids in tiny.ids(tiny.BATCH).items()}
        graph = build.build_graph(settings, given, TRAIN, add_up_sums=True)
        alarm = LoopAlarmHook(settings)
        alarm.watch(graph)
        hooks = (alarm, LoopReportHook(alarm, settings, session, graph, LAST))
        fetches = {
            model_sum("loss"): graph.loss,
            model_sum("learning_rate"): graph.learning_rate,
            **graph.sums,
        }
        with graphs.quick_session() as tf_session:
            tf_session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            tf_session.run(graph.lowering.copy_masters_to_slices())
            for hook in hooks:
                hook.after_create_session(tf_session, tf.train.Coordinator())
            for num_steps in LOOPS:
                for _ in range(num_steps):
                    fetched.append(tf_session.run([fetches, graph.train_op])[0])
                for hook in hooks:
                    hook.after_run(types.SimpleNamespace(session=tf_session), None)
            for hook in hooks:
                hook.end(tf_session)
    # The loop of step 4 ends at 5, that of step 8 at 9.
    curves = tiny.curves(tmp_path)
    assert [line["step"] for line in curves] == [5, 9]
    for line, steps in zip(curves, (slice(0, 5), slice(5, 9))):
        for name, value in metrics(fetched[steps]).items():
            tolerances.assert_close(line[name], value, tolerances.SAME, name)
    assert [line.split(" | ")[0] for line in lines if line.startswith("step")] == [
        "step 5 of 9",
        "step 9 of 9",
    ]
    assert checkpoint_files.saved_steps(str(tmp_path)) == [9, 5]
    assert "sums_of_steps" not in tiny.weights(tmp_path)


def metrics(fetched: list[dict]) -> dict[str, float]:
    """The metrics of steps, from the sums of each."""
    collector = run_metrics.SumCollector()
    for sums in fetched:
        collector.add(sums)
    return run_metrics.training_metrics(collector)


def alarm_of(folder: Path) -> LossAlarm:
    return LossAlarm(0, tiny.make(folder).settings, "float32")


def sums(**named: float) -> Any:
    named = {"below_zero": 0.0, "cross_entropy": 1.0, **named}
    return {model_sum(name): np.float32(value) for name, value in named.items()}


def test_loss_of_a_loop_that_is_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError) as error:
        alarm_of(tmp_path).check(9, np.nan, 0.04, sums(cross_entropy=np.nan), num_steps=4)
    assert str(error.value).startswith(
        "the loss is nan in one of the steps 6 to 9, and no later step can recover from it (not "
        "finite: the cross entropy). Nothing of these steps was saved; no checkpoint was saved "
        "before, so the next start begins at step 0. Likely cause: "
    )


def test_learning_rate_of_a_loop_that_is_infinite(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError) as error:
        alarm_of(tmp_path).check(9, 1.0, np.inf, sums(), num_steps=4)
    assert str(error.value).startswith(
        "the learning rate is inf in one of the steps 6 to 9, and so are all weights after it. "
        "Nothing of these steps was saved; no checkpoint was saved before"
    )


def test_probability_above_1_in_a_loop(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError) as error:
        alarm_of(tmp_path).check(9, 1.0, 0.04, sums(below_zero=0.5), num_steps=4)
    assert str(error.value).startswith(
        "a target has a probability above 1 in one of the steps 6 to 9 (cross entropies are below 0 "
        "by 0.5 in total): "
    )
