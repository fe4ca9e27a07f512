"""Routers in a T5: balancing by a bias, word embeddings, and what a decoder refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.routing import balancing
from hmoe.t5.layers import metric_collection
from tests import tolerances
from tests.t5 import tiny

RATE = 0.125
BALANCED = (
    f"hmoe.TopKRouter.bias_update_rate = {RATE}",
    "hmoe.TopKRouter.policy_train = 'none'",
    "hmoe.HierarchicalMoE.metrics = 'full'",
    "hmoe.Level.balance_loss_coef = 0.0",
)
MICROBATCHES = (f"serialize_num_microbatches.tokens_per_microbatch_per_replica = {tiny.LENGTH}",)
ONE_CHOICE = ("outer/hmoe.TopKRouter.k = 1", "inner/hmoe.TopKRouter.k = 1")
LAYER = "encoder/block_000/layer_001"
GATINGS = ("outer_gating", "inner_gating")


def train(
    folder: Path, bindings: Sequence[str], layout: str = "one_device", steps: int = 1, **more: Any
) -> dict[str, np.ndarray]:
    """The weights after some steps on the same batch."""
    estimator = tiny.make(
        folder, model="hierarchical_tiny", layout=layout, bindings=bindings, **more
    )
    rows = {name: np.tile(ids, [8, 1]) for name, ids in tiny.ids(tiny.BATCH).items()}
    estimator.train(tiny.input_fn(rows), max_steps=steps)
    return tiny.weights(folder)


def biases(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in weights.items() if name.endswith("/balance_bias")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "bindings"),
    [("cpu_2x2", ()), ("cpu_2x2", MICROBATCHES)],
    ids=["mesh", "mesh-microbatches"],
)
def test_biases_move_against_the_load_of_the_whole_step(
    tmp_path: Path, layout: str, bindings: Sequence[str]
) -> None:
    """At learning rate 0 and without drops the load is the same however the step is cut."""
    free = (*BALANCED, "hmoe.Level.capacity_factor_train = 4.0", *ONE_CHOICE)
    alone = train(tmp_path / "alone", free, learning_rate_schedule=0.0)
    cut = train(tmp_path / "cut", (*free, *bindings), layout, learning_rate_schedule=0.0)
    assert len(biases(alone)) == 2 * len(GATINGS)
    told = tiny.curves(tmp_path / "alone")[0]
    for name, bias in biases(alone).items():
        assert bias.dtype == np.float32
        np.testing.assert_array_equal(biases(cut)[name], bias)
        tolerances.assert_close(bias.sum(axis=-1), 0.0 * bias.sum(axis=-1), tolerances.SAME, name)
    # Two experts: the one with more than half of the demand goes down, the other up.
    loads = []
    for layer in (LAYER, "decoder/block_000/layer_002"):
        loads.append(np.array([told[f"{layer}/outer/load_{expert}"] for expert in range(2)]))
        np.testing.assert_array_equal(
            alone[f"{layer}/MoELayer/outer_gating/balance_bias"], RATE * np.sign(0.5 - loads[-1])
        )
    assert np.max(loads) > 0.5


def test_biases_balance_the_load_and_rest_in_evaluation(tmp_path: Path) -> None:
    bindings = (*BALANCED, "hmoe.TopKRouter.bias_update_rate = 0.01", *ONE_CHOICE)
    estimator = tiny.make(
        tmp_path, model="hierarchical_tiny", bindings=bindings, learning_rate_schedule=0.0
    )
    rows = {name: np.tile(ids, [40, 1]) for name, ids in tiny.ids(tiny.BATCH).items()}
    estimator.train(tiny.input_fn(rows), max_steps=40)
    curves = tiny.curves(tmp_path)
    for level in ("outer", "inner"):
        name = f"experts/{level}/max_violation"
        assert np.mean([line[name] for line in curves[-10:]]) < 0.6 * curves[0][name], level
    before = biases(tiny.weights(tmp_path))
    estimator.evaluate(tiny.input_fn(tiny.ids(tiny.BATCH)))
    after = biases(tiny.weights(tmp_path))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_biases_of_weights_that_are_filtered_out_rest(tmp_path: Path) -> None:
    weights = train(tmp_path, (*BALANCED, *ONE_CHOICE), variable_filter="^decoder/")
    for name, bias in biases(weights).items():
        assert bool(np.abs(bias).max() > 0) == name.startswith("decoder/"), name


def test_gates_read_word_embeddings(tmp_path: Path) -> None:
    bindings = ("hmoe.TopKRouter.gate = @hmoe.Gate()", "hmoe.Gate.word_embeddings = 'concat'")
    weights = train(tmp_path, bindings)
    assert weights[f"{LAYER}/MoELayer/outer_gating/kernel"].shape == (32, 2)
    assert weights[f"{LAYER}/MoELayer/inner_gating/kernel"].shape == (2, 32, 2)
    estimator = tiny.make(tmp_path, model="hierarchical_tiny", bindings=bindings)
    answers = list(estimator.predict(tiny.input_fn({"inputs": tiny.ids(tiny.BATCH)["inputs"]})))
    assert len(answers) == tiny.BATCH


EXPERTS_CHOOSE = (
    "hmoe.Level.router = @hmoe.ExpertChoiceRouter()",
    "outer/hmoe.Level.router = @hmoe.ExpertChoiceRouter()",
    "inner/hmoe.Level.router = @hmoe.ExpertChoiceRouter()",
)


def test_a_decoder_refuses_expert_choice(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        train(tmp_path, EXPERTS_CHOOSE)
    # gin adds where it called the layer.
    assert str(error.value).split("\n")[0] == (
        "level 'outer': ExpertChoiceRouter in a decoder, where experts"
        " would choose among tokens of which decoding knows only the first: the model would train"
        " on what it cannot have later. Use a router where tokens choose (hmoe.TopKRouter) in the"
        " decoder, or set allow_in_decoder = True if that is meant"
    )


def test_a_decoder_takes_expert_choice_when_told(tmp_path: Path) -> None:
    bindings = (*EXPERTS_CHOOSE, "hmoe.ExpertChoiceRouter.allow_in_decoder = True")
    train(tmp_path, bindings)
    told = tiny.curves(tmp_path)[0]
    assert told[f"{LAYER}/outer/auxiliary_loss"] == 0
    assert told["experts/expert_usage"] > 0.5
    estimator = tiny.make(tmp_path, model="hierarchical_tiny", bindings=bindings)
    answers = list(estimator.predict(tiny.input_fn({"inputs": tiny.ids(tiny.BATCH)["inputs"]})))
    assert len(answers) == tiny.BATCH


def test_biases_that_nothing_moves_are_refused() -> None:
    update = balancing.BiasUpdate(bias=None, load_name="outer/load", rate=RATE)
    with metric_collection.collecting() as records:
        metric_collection.record("layer", {}, None, [update])
    assert records[0].bias_updates == [update]
    with pytest.raises(ValueError) as error:
        metric_collection.record("layer", {}, None, [update])
    assert str(error.value) == (
        "layer layer: its routers have bias_update_rate = 0.125, but only `hmoe train` moves"
        " biases, not T5's own command; train with it, or hold them where they are with"
        " bias_update_rate = 0"
    )
