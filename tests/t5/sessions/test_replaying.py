"""Runs that cannot replay a trace are refused before anything is built."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hmoe.analysis.replay import Replay
from hmoe.t5.layers import replayed_choices
from hmoe.t5.layers.replayed_choices import ReplayedLayer
from hmoe.t5.sessions.estimator import SessionEstimator
from hmoe.t5.sessions.session_settings import SessionSettings
from tests.analysis import made_traces
from tests.t5 import tiny


def replay() -> Replay:
    return Replay("some.parquet", made_traces.trace(3, 4, (2, 2), seed=1))


@pytest.mark.parametrize(
    ("settings", "session", "message"),
    [
        (
            {"model_type": "lm"},
            {},
            "--replay needs a model with an encoder and a decoder (utils.run.model_type ="
            " 'bitransformer'); this one is of type 'lm'",
        ),
        (
            {"ensemble_inputs": 2},
            {},
            "--replay does not go with an ensemble (utils.run.ensemble_inputs = 2); set it to None",
        ),
        (
            {},
            {"master": "grpc://elsewhere:1"},
            "--replay runs in one process, which looks up the examples of each batch; leave out"
            " --workers, TF_CONFIG, hmoe launch and hmoe.Session.master",
        ),
    ],
)
def test_runs_that_cannot_replay(
    tmp_path: Path, settings: dict[str, Any], session: dict[str, Any], message: str
) -> None:
    made = dataclasses.replace(tiny.make(tmp_path).settings, **settings)
    with pytest.raises(ValueError) as caught:
        SessionEstimator(made, SessionSettings(**session), replay=replay())
    assert str(caught.value) == message


def test_a_layer_that_the_model_does_not_have() -> None:
    (info,) = replay().layers
    vectors: Any = None  # which no layer takes
    opened = replayed_choices.replaying([ReplayedLayer(info, vectors)])
    with pytest.raises(ValueError) as caught, opened:
        pass
    assert str(caught.value) == (
        "--replay: the trace has choices of encoder/block_000/layer_001, but the model has no layer"
        " of experts of that name; replay a trace of a model with the same layers"
    )
