"""`TPUEstimator` with hmoe's model function, on CPUs, under the TensorFlow that has it.

Here a loop has one step, as always on CPUs; `test_tpu_hooks.py` has loops of several.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe import compat
from hmoe.compat.stack import tf
from hmoe.startup.errors import RunFailedError
from hmoe.storage import checkpoint_files
from hmoe.t5.sessions.session_settings import SessionSettings
from tests import tolerances
from tests.t5 import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not compat.tpu_estimator_is_real(), reason="this TensorFlow has no TPUEstimator"
    ),
]


def tpu_estimator_of(estimator: Any, lines: list[str] | None = None) -> Any:
    from hmoe.t5.sessions import tpu_estimator as tpu_lib

    session = SessionSettings(say=[].append if lines is None else lines.append, log_every_steps=1)
    return tpu_lib.estimator(estimator.settings, None, None, 1, session)


def batches(num_batches: int, skip: int = 0, **features: Any) -> Any:
    data = tiny.ids(num_batches * tiny.BATCH)

    def input_fn(params: dict[str, Any]) -> Any:
        chosen = {k: v for k, v in data.items() if k in (features or data)}
        return tiny.input_fn(chosen, skip=skip)(params)

    return input_fn


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hierarchical model after one step, whose biases balance its experts."""
    folder = tmp_path_factory.mktemp("trained")
    balanced(folder).train(batches(1), max_steps=1)
    return folder


def balanced(folder: Path, **settings: Any) -> Any:
    bindings = ["hmoe.TopKRouter.bias_update_rate = 0.1"]
    return tiny.make(
        folder, "hierarchical_tiny", "cpu_2x2", bindings, save_checkpoints_steps=2, **settings
    )


def test_trains_like_sessions(trained: Path, tmp_path: Path) -> None:
    """Curves, progress lines, weights and biases, from one checkpoint on."""
    lines: dict[str, list[str]] = {"tpu": [], "sessions": []}
    for name in lines:
        shutil.copytree(trained, tmp_path / name)
    ours = balanced(tmp_path / "sessions", lines=lines["sessions"])
    ours.train(batches(4, skip=1), max_steps=4)
    tpu = tpu_estimator_of(balanced(tmp_path / "tpu"), lines["tpu"])
    tpu.train(batches(4, skip=1), max_steps=4)

    expected, found = (tiny.curves(tmp_path / name) for name in ("sessions", "tpu"))
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [1, 2, 3, 4]
    for one, other in zip(expected, found):
        assert one.keys() == other.keys()
        for name in one.keys() - {"time", "steps_per_second", "tokens_per_second"}:
            tolerances.assert_close(other[name], one[name], tolerances.MESHES, name)
    reported = {
        name: [line.split(" | ")[:5] for line in told if line.startswith("step")]
        for name, told in lines.items()
    }
    assert reported["tpu"] == reported["sessions"]
    assert len(reported["tpu"]) == 3
    saved = [line for line in lines["tpu"] if line.startswith("Saved")]
    assert saved == [f"Saved {tmp_path}/tpu/model.ckpt-{step}" for step in (2, 4)]
    assert checkpoint_files.saved_steps(str(tmp_path / "tpu")) == [4, 2, 1]
    weights, others = tiny.weights(tmp_path / "sessions"), tiny.weights(tmp_path / "tpu")
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        tolerances.assert_close(others[name], value, tolerances.MESHES, name)
    assert any(name.endswith("balance_bias") and value.any() for name, value in weights.items())


def test_evaluates_and_predicts_like_sessions(trained: Path) -> None:
    ours = balanced(trained)
    tpu = tpu_estimator_of(ours)
    theirs = tpu.evaluate(batches(2), steps=2)
    mine = ours.evaluate(batches(2), steps=2)
    for name in ("cross_ent_loss", "neg_log_perplexity", "token_accuracy", "sequence_accuracy"):
        assert theirs[name] == pytest.approx(mine[name], rel=1e-5, abs=1e-7), name
    answers = [row["outputs"] for row in tpu.predict(batches(1, inputs=1))]
    mine = [row["outputs"] for row in ours.predict(batches(1, inputs=1))]
    np.testing.assert_array_equal(answers, mine)


def test_exported_model_has_its_weights_on_the_mesh(trained: Path, tmp_path: Path) -> None:
    """Whoever loads it has no hooks, which copy the weights elsewhere."""
    ours = balanced(trained)
    folder = tiny.export(tpu_estimator_of(ours), tmp_path)
    texts = ["one", "two", "three", "five", "seven", "a", "bc", "def"]
    rows = tiny.rows_of_texts(texts)
    expected = [row["outputs"] for row in ours.predict(tiny.input_fn({"inputs": rows}))]
    with tf.Graph().as_default(), tf.Session() as session:
        loaded = tf.saved_model.load(session, ["serve"], folder).signature_def["serving_default"]
        found = session.run(loaded.outputs["outputs"].name, {loaded.inputs["inputs"].name: texts})
    np.testing.assert_array_equal(found, expected)


def test_loss_that_is_not_a_number(tmp_path: Path) -> None:
    tpu = tpu_estimator_of(tiny.make(tmp_path, learning_rate_schedule=1e20))
    with pytest.raises(RunFailedError) as error:
        tpu.train(batches(4), max_steps=4)
    assert str(error.value).startswith(
        "the loss is nan at step 2, and no later step can recover from it (not finite: the cross "
        "entropy). Nothing of this step was saved; no checkpoint was saved before, so the next start "
        "begins at step 0. Likely cause: the learning rate is 1e+20 from step 0 on, without warm-up"
    )
    assert checkpoint_files.saved_steps(str(tmp_path)) == []


def test_weight_that_is_too_large(tmp_path: Path) -> None:
    estimator = tiny.make(tmp_path, learning_rate_schedule=1e7, save_checkpoints_steps=1)
    with pytest.raises(RunFailedError, match="^training diverged: at step 1, "):
        tpu_estimator_of(estimator).train(batches(2), max_steps=2)
    assert checkpoint_files.saved_steps(str(tmp_path)) == []
