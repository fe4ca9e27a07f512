"""Weights that diverged are not saved."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.t5.sessions.hooks import SaveHook
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.training_folder import RunKeeper
from hmoe.t5.sessions.weight_check import WeightCheck
from tests.t5 import tiny

NAME = "encoder/block_000/layer_000/SelfAttention/q"


def test_weights_beyond_the_bound_are_not_saved(tmp_path: Path) -> None:
    """The first step is saved; the second multiplies the weights by 1e20."""
    tiny.make(tmp_path).train(tiny.input_fn(tiny.ids(8)), max_steps=1)
    before = tiny.weights(tmp_path)
    estimator = tiny.make(tmp_path, learning_rate_schedule=1e20, save_checkpoints_steps=1)
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(80)), max_steps=9)
    text = str(error.value)
    start = "training diverged: at step 2, shared/embedding holds values up to "
    assert text.startswith(start)
    assert text.split(", where ", 1)[1] == (
        "hmoe.Session.largest_weight lets it hold at most 1e+06; 28 other variables do so too. "
        f"Nothing of this step was saved; the last good checkpoint is {tmp_path}/model.ckpt-1, from "
        "which the next start resumes. Likely cause: the learning rate is 1e+20 from step 0 on, "
        "without warm-up: begin with one (learning_rate_schedules.linear_warmup; warmup_steps in "
        "shipped runs), and lower the learning rate (utils.run.learning_rate_schedule)"
    )
    after = tiny.weights(tmp_path)
    assert all((after[name] == before[name]).all() for name in before)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        (NAME, math.inf, "1 of 6 values that are not finite"),
        (NAME, math.nan, "1 of 6 values that are not finite"),
        (NAME, -2e6, "values up to 2e+06"),
        # A slot holds squares of gradients, and may have the square of the bound.
        (f"{NAME}_slot_v", 2e12, "values up to 2e+12"),
        (f"{NAME}_slot_v", math.nan, "1 of 6 values that are not finite"),
        (f"{NAME}_slot_v", 5e11, None),
        (NAME, 999.0, None),
    ],
)
def test_one_value_is_found(tmp_path: Path, name: str, value: float, found: str | None) -> None:
    settings: Any = SimpleNamespace(model_dir=str(tmp_path), learning_rate_schedule=0.01)
    with tf.Graph().as_default(), tf.Session() as session:
        for each in (NAME, f"{NAME}_slot_v"):
            initial = np.full([2, 3], 0.5, np.float32)
            initial[1, 0] = value if each == name else 0.5
            tf.get_variable(each, initializer=initial)
        tf.train.create_global_step()
        session.run(tf.global_variables_initializer())
        check = WeightCheck(settings, SessionSettings())
        if found is None:
            check.check(session, 7)
            return
        with pytest.raises(ValueError) as error:
            check.check(session, 7)
    limit = "1e+12" if "slot" in name else "1e+06"
    assert str(error.value).startswith(
        f"training diverged: at step 7, {name} holds {found}, where hmoe.Session.largest_weight lets "
        f"it hold at most {limit}. Nothing of this step was saved; "
    )


def test_weights_are_copied_from_the_mesh_once_and_then_checked_and_saved() -> None:
    done: list[str] = []
    saver: Any = SimpleNamespace(
        collect=lambda session: done.append("collect"),
        save=lambda *arguments: done.append("save"),
    )
    hook = SaveHook(
        first_step=0,
        model_dir="m",
        session=SessionSettings(say=done.append),
        saver=saver,
        every_steps=0,
        check=lambda session, step: done.append(f"check {step}"),
        keep_sums=lambda path: None,
        keeper=RunKeeper(lambda: done.append("keep"), has_checkpoint=True),
    )
    context: Any = SimpleNamespace(session=None)
    hook.after_run(context, context)
    hook.end(context)
    assert done == ["collect", "check 1", "save", "keep", "Saved None"]
