"""A loss that is not a number, and a cross entropy below zero, stop a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hmoe.lowering import placement
from hmoe.t5.sessions import checkpoints
from tests.t5 import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model after two steps."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    return folder


def test_loss_that_is_not_a_number(tmp_path: Path) -> None:
    estimator = tiny.make(tmp_path, learning_rate_schedule=float("inf"))
    with pytest.raises(ValueError) as error:
        estimator.train(tiny.input_fn(tiny.ids(80)), max_steps=9)
    assert str(error.value) == (
        "the loss is nan at step 2, and no later step can recover from it; no checkpoint was "
        "saved. Lower the learning rate (utils.run.learning_rate_schedule), or with bfloat16 use "
        "float32 activations (hmoe.Session.activation_dtype; on a TPU "
        "utils.get_variable_dtype.activation_dtype)"
    )


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
