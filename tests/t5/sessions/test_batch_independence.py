"""Predictions and scores do not depend on the other rows of their batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.t5 import tiny

ROWS = 12

#: Bindings for the encoder's and the decoder's layers; capacities are tight in evaluation.
TIGHT = [
    "hmoe.Level.capacity_factor_eval = 0.5",
    "hmoe.Level.min_capacity = 1",
    "outer/hmoe.Level.capacity_factor_eval = 0.5",
    "inner/hmoe.Level.capacity_factor_eval = 0.5",
]
EVERY_LEVEL = "{level}/hmoe.Level.router = @hmoe.{router}()"


def everywhere(router: str, *more: str) -> list[str]:
    return [EVERY_LEVEL.format(level=level, router=router) for level in ("outer", "inner")] + [
        *more
    ]


ROUTERS = {
    "top-2": [],
    "random": ["hmoe.TopKRouter.policy_eval = 'random'", "hmoe.TopKRouter.threshold_eval = 0.9"],
    "sampled": everywhere("SwitchRouter", "hmoe.SwitchRouter.selection_eval = 'sample'"),
    "uniform": everywhere("UniformRouter", "hmoe.UniformRouter.k = 2"),
    "experts-choose": everywhere(
        "ExpertChoiceRouter",
        "hmoe.ExpertChoiceRouter.softmax_over = 'tokens'",
        "hmoe.ExpertChoiceRouter.allow_in_decoder = True",
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with experts in both stacks after three steps, so that its outputs are not empty."""
    folder = tmp_path_factory.mktemp("neighbours")
    make(folder, "top-2").train(tiny.input_fn(tiny.ids(24)), max_steps=3)
    return folder


def make(folder: Path, name: str, **more: Any) -> Any:
    return tiny.make(folder, model="hierarchical_tiny", bindings=[*TIGHT, *ROUTERS[name]], **more)


def rows_of(estimator: Any, data: dict[str, np.ndarray]) -> list[Any]:
    size = estimator.settings.batch_size
    missing = -len(data["inputs"]) % size
    padded = {name: np.pad(rows, [[0, missing], [0, 0]]) for name, rows in data.items()}
    results = list(estimator.predict(tiny.input_fn(padded, size)))[: len(data["inputs"])]
    return [
        float(row["scores"]) if "scores" in row else tiny.text(row["outputs"]) for row in results
    ]


def orders(data: dict[str, np.ndarray]) -> Any:
    order = np.random.RandomState(1).permutation(ROWS)
    return order, {name: rows[order] for name, rows in data.items()}


@pytest.mark.parametrize("layout", ["one_device", pytest.param("cpu_2x2", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    ["top-2", *(pytest.param(name, marks=pytest.mark.slow) for name in ROUTERS if name != "top-2")],
)
def test_scores_do_not_depend_on_order_or_batch(trained: Path, name: str, layout: str) -> None:
    data = tiny.ids(ROWS, seed=3)
    how = {"score_in_predict_mode": True}
    expected = rows_of(make(trained, name, **how), data)
    order, other = orders(data)
    shuffled = rows_of(make(trained, name, layout=layout, **how), other)
    assert shuffled == pytest.approx([expected[row] for row in order], rel=1e-5)
    few = rows_of(make(trained, name, layout=layout, batch_size=4, **how), data)
    assert few == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == ROWS


@pytest.mark.parametrize(
    "name",
    ["top-2", *(pytest.param(name, marks=pytest.mark.slow) for name in ROUTERS if name != "top-2")],
)
def test_predictions_do_not_depend_on_order_or_batch(trained: Path, name: str) -> None:
    data = {"inputs": tiny.ids(ROWS, seed=3)["inputs"]}
    expected = rows_of(make(trained, name), data)
    order, other = orders(data)
    assert rows_of(make(trained, name, batch_size=4), other) == [expected[row] for row in order]


@pytest.mark.slow
def test_beams_do_not_depend_on_the_longest_row(trained: Path) -> None:
    """T5 itself limits the length of all outputs by the longest input of the batch."""
    bindings = [
        *TIGHT,
        "Bitransformer.decode.beam_size = 2",
        "Bitransformer.decode.decode_length_multiplier = 0.5",
        "Bitransformer.decode.decode_length_constant = 1",
    ]
    short = {"inputs": tiny.ids(4, seed=3)["inputs"]}
    short["inputs"][:, 2:] = 0
    short["inputs"][:, 1] = 1
    long = {"inputs": np.concatenate([short["inputs"], np.full([4, tiny.LENGTH], 9, np.int32)])}
    estimator = tiny.make(trained, model="hierarchical_tiny", bindings=bindings)
    assert rows_of(estimator, long)[:4] == rows_of(estimator, short)


@pytest.mark.slow
def test_an_exported_model_predicts_the_same_in_any_order(trained: Path, tmp_path: Path) -> None:
    texts = ["ab", "xyz", "hello", "q", "wo", "rld", "ij", "k"]
    folder = tiny.export(make(trained, "top-2"), tmp_path)
    expected, backwards, few = tiny.answers_of_export(folder, texts, texts[::-1], texts[2:4])
    assert backwards == expected[::-1]
    assert few == expected[2:4]
    rows = {"inputs": tiny.rows_of_texts(texts)}
    assert rows_of(make(trained, "top-2"), rows) == expected


def test_evaluation_does_not_depend_on_the_batch_size(trained: Path) -> None:
    """All metrics, the experts' among them, for batch sizes that give the same groups."""
    data = tiny.ids(ROWS, seed=4)
    # Two rows make a group, of whose 16 tokens each outer expert has slots for 4.
    groups = [
        "outer/hmoe.Level.group_size = 16",
        "inner/hmoe.Level.group_size = 4",
        "hmoe.HierarchicalMoE.metrics = 'full'",
    ]
    found = []
    for size in (4, 8, 12):
        padded = {name: np.pad(rows, [[0, -ROWS % size], [0, 0]]) for name, rows in data.items()}
        estimator = tiny.make(
            trained, model="hierarchical_tiny", bindings=[*TIGHT, *groups], batch_size=size
        )
        found.append(estimator.evaluate(tiny.input_fn(padded, size)))
    assert any(name.endswith("/expert_usage") for name in found[0])
    assert found[0]["experts/fraction_tokens_left_behind"] > 0
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5, abs=1e-6)
