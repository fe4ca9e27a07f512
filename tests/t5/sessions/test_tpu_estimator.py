"""`TPUEstimator` with hmoe's model function, on CPUs, under the TensorFlow that has it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hmoe import compat
from tests.t5 import tiny

pytestmark = pytest.mark.skipif(
    not compat.tpu_estimator_is_real(), reason="this TensorFlow has no TPUEstimator"
)


def tpu_estimator_of(estimator, tpu=None):
    from hmoe.t5.sessions import tpu_estimator as tpu_lib

    settings = dataclasses.replace(estimator.settings, use_tpu=tpu)
    return tpu_lib.estimator(settings, None, None, iterations_per_loop=1)


def batches(num_batches: int, **features):
    data = tiny.ids(num_batches * tiny.BATCH)

    def input_fn(params):
        return tiny.input_fn({k: v for k, v in data.items() if k in (features or data)})(params)

    return input_fn


@pytest.mark.slow
def test_trains_evaluates_and_predicts_like_sessions(tmp_path: Path) -> None:
    tpu = tpu_estimator_of(tiny.make(tmp_path / "tpu"))
    tpu.train(batches(2), max_steps=2)
    ours = tiny.make(tmp_path / "ours")
    ours.train(batches(2), max_steps=2)
    # One seed gives other weights under another training loop, so one checkpoint is compared.
    path = tpu.latest_checkpoint()
    assert path.endswith("model.ckpt-2")
    theirs = tpu.evaluate(batches(2), steps=2, checkpoint_path=path)
    mine = ours.evaluate(batches(2), steps=2, checkpoint_path=path)
    for name in ("cross_ent_loss", "neg_log_perplexity", "token_accuracy", "sequence_accuracy"):
        assert theirs[name] == pytest.approx(mine[name], rel=1e-5, abs=1e-7), name
    answers = [row["outputs"] for row in tpu.predict(batches(1, inputs=1), checkpoint_path=path)]
    mine = [row["outputs"] for row in ours.predict(batches(1, inputs=1), checkpoint_path=path)]
    np.testing.assert_array_equal(answers, mine)
