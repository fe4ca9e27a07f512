"""A loss or learning rate that is not a number, and a cross entropy below zero, stop a run."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from mesh_tensorflow.transformer import learning_rate_schedules

from hmoe.lowering import placement
from hmoe.t5.sessions import checkpoints
from tests.t5 import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model after two steps."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    return folder


def schedule(rate: float, warmup_steps: float) -> functools.partial:
    warmup = functools.partial(
        learning_rate_schedules.linear_warmup, steps_or_fraction=warmup_steps
    )
    return functools.partial(
        learning_rate_schedules.product_learning_rate, total_train_steps=9, factors=[rate, warmup]
    )


def diverge(folder: Path, max_steps: int = 9, skip: int = 0, **arguments: Any) -> str:
    estimator = tiny.make(folder, **arguments)
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(80), skip=skip), max_steps=max_steps)
    return str(error.value)


def test_loss_that_is_not_a_number_for_want_of_a_warm_up(tmp_path: Path) -> None:
    assert diverge(tmp_path, learning_rate_schedule=1e20) == (
        "the loss is nan at step 2, and no later step can recover from it (not finite: the cross "
        "entropy). Nothing of this step was saved; no checkpoint was saved before, so the next start "
        "begins at step 0. Likely cause: the learning rate is 1e+20 from step 0 on, without warm-up: "
        "begin with one (learning_rate_schedules.linear_warmup; warmup_steps in shipped runs), and "
        "lower the learning rate (utils.run.learning_rate_schedule)"
    )


def test_loss_that_is_not_a_number_in_spite_of_a_warm_up(tmp_path: Path) -> None:
    """The first of the terms that are wrong is the outer balance loss of the first layer."""
    text = diverge(
        tmp_path,
        model="hierarchical_tiny",
        learning_rate_schedule=schedule(1e30, 3),
        bindings=["hmoe.Session.activation_dtype = 'bfloat16'"],
    )
    layer = "of encoder/block_000/layer_001"
    assert text == (
        "the loss is nan at step 3, and no later step can recover from it (not finite, in the order "
        f"of the model: the balance loss {layer}, level 'outer', the router z-loss {layer}, level "
        f"'outer', the balance loss {layer}, level 'inner' and 6 more). Nothing of this step was "
        "saved; no checkpoint was saved before, so the next start begins at step 0. Likely cause: "
        "the learning rate, 6.66667e+29, is too high: lower it, or warm up over more steps "
        "(warmup_steps in shipped runs) (utils.run.learning_rate_schedule). Activations are "
        "bfloat16, which can be the cause too: try float32 (hmoe.Session.activation_dtype)"
    )


@pytest.mark.parametrize(("given", "rate"), [(float("inf"), "inf"), (schedule(0.01, 0), "nan")])
def test_learning_rate_that_is_not_a_number(tmp_path: Path, given: Any, rate: str) -> None:
    assert diverge(tmp_path, learning_rate_schedule=given) == (
        f"the learning rate is {rate} at step 1, and so are all weights after it. Nothing of this "
        "step was saved; no checkpoint was saved before, so the next start begins at step 0. Set "
        "another utils.run.learning_rate_schedule; a warm-up over 0 steps divides by 0 "
        "(learning_rate_schedules.linear_warmup.steps_or_fraction and truncated_rsqrt.warmup_steps; "
        "warmup_steps in shipped runs): set 1 or more"
    )


@pytest.mark.slow
def test_the_checkpoint_that_gives_such_a_loss_is_moved_away(tmp_path: Path) -> None:
    """Weights of 2e27 after the second step, which no bound keeps from being saved."""
    unbound = {
        "learning_rate_schedule": schedule(1e28, 6),
        "save_checkpoints_steps": 1,
        "bindings": ["hmoe.Session.largest_weight = 3e38"],
    }
    text = diverge(tmp_path, **unbound)
    assert (
        f"Nothing of this step was saved; {tmp_path}/model.ckpt-2, whose weights give this loss, was "
        f"moved to {tmp_path}/diverged; the last good checkpoint is {tmp_path}/model.ckpt-1, from "
        "which the next start resumes. "
    ) in text
    assert (tmp_path / "diverged" / "model.ckpt-2.index").exists()
    assert not list(tmp_path.glob("model.ckpt-2*"))
    # What a run resumes from stays, whatever becomes of it: the configuration may be to blame.
    again = diverge(tmp_path, skip=1, **{**unbound, "save_checkpoints_steps": 1000})
    assert f"the last good checkpoint is {tmp_path}/model.ckpt-1" in again
    for path in (tmp_path / "diverged").iterdir():
        path.rename(tmp_path / path.name)
    resumed = diverge(tmp_path, skip=2, **unbound)
    assert (
        f"Nothing of this step was saved; {tmp_path}/model.ckpt-2, the newest checkpoint, holds the "
        "weights that give this loss: if another configuration does not help, move its files away "
        "and resume from an older one. "
    ) in resumed
    assert (tmp_path / "model.ckpt-2.index").exists()


BELOW_ZERO = (
    "a target has a probability above 1 {when} (cross entropies are below 0 by {number} in total): a "
    "sum over the mesh is wrong, and so is every number computed from it. Nothing was saved. Compare "
    "with one device (utils.run.mesh_shape = '' and utils.run.layout_rules = ''), and report the "
    "mesh and the layout"
)


@pytest.mark.parametrize(
    ("what", "when"), [("train", "at step 3"), ("evaluate", "in batch 1"), ("score", "in batch 1")]
)
def test_a_probability_above_1_stops_a_run(
    tmp_path: Path,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    when: str,
) -> None:
    """For a confident model on a mesh where every sum over an axis counts its slices twice."""
    weights = tiny.weights(trained)
    weights["decoder/logits/kernel"] *= 50
    folder = tmp_path / "model"
    checkpoints.write(str(folder), 2, weights)
    right = placement._from_both_ends
    monkeypatch.setattr(
        placement, "_from_both_ends", lambda add, slices: right(add, [*slices, *slices])
    )
    estimator = tiny.make(folder, layout="dense_2x1", score_in_predict_mode=what == "score")
    data = tiny.input_fn(tiny.ids(16))
    runs = {
        "train": lambda: estimator.train(data, max_steps=4),
        "evaluate": lambda: estimator.evaluate(data),
        "score": lambda: list(estimator.predict(data)),
    }
    with pytest.raises(ValueError) as error:
        runs[what]()
    number = re.search(r"below 0 by (\S+) in total", str(error.value)).group(1)
    assert float(number) > 1
    assert str(error.value) == BELOW_ZERO.format(when=when, number=number)
    assert estimator.latest_checkpoint() == str(folder / "model.ckpt-2")
