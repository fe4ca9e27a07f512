"""Every expert metric of a real run, against the loop oracle on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.layer.moe import HierarchicalMoE
from hmoe.t5.graphs import call_model
from tests import ask_oracle, meshes, reference
from tests.t5 import tiny

pytestmark = pytest.mark.slow

STEPS, OUTER = 3, 2
BINDINGS = (
    "group_size = 8",
    "inner_group_size = 5",
    "hmoe.HierarchicalMoE.exact_groups = True",
    "hmoe.TopKRouter.policy_train = 'all'",
    "hmoe.Level.min_capacity = 1",
    "hmoe.Level.z_loss_coef = 0.01",
    'hmoe.HierarchicalMoE.metrics = "full"',
)
# Microbatches of one sequence, of which each device has two per batch.
MICROBATCHES = (f"serialize_num_microbatches.tokens_per_microbatch_per_replica = {tiny.LENGTH}",)

Seen = dict[str, tuple[HierarchicalMoE, np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Three steps at learning rate 0 on 2 x 2, so all see the same weights; then evaluation."""
    folder = tmp_path_factory.mktemp("run")
    estimator = _make(folder, "cpu_2x2", MICROBATCHES)
    estimator.train(tiny.input_fn(tiny.ids(STEPS * tiny.BATCH)), max_steps=STEPS)
    numbers = _make(folder, "cpu_2x2").evaluate(tiny.input_fn(tiny.ids(STEPS * tiny.BATCH)))
    return folder, numbers


def _make(folder: Path, layout: str, bindings: tuple[str, ...] = ()) -> Any:
    return tiny.make(
        folder,
        model="hierarchical_tiny",
        layout=layout,
        bindings=[*BINDINGS, *bindings],
        learning_rate_schedule=0.0,
    )


def test_training_reports_the_oracles_numbers(run: tuple[Path, dict[str, float]]) -> None:
    folder, _ = run
    curves = tiny.curves(folder)
    assert len(curves) == STEPS
    for step, reported in enumerate(curves):
        rows = _rows(step)
        # T5 puts every second sequence of an outer batch into the same microbatch.
        calls = [
            _seen(folder, {name: ids[:, part::2] for name, ids in rows.items()}, "train")
            for part in range(2)
        ]
        _compare(folder, calls, reported, train=True)


def test_evaluation_reports_the_oracles_numbers(run: tuple[Path, dict[str, float]]) -> None:
    folder, numbers = run
    calls = [_seen(folder, _rows(step), "eval") for step in range(STEPS)]
    _compare(folder, calls, numbers, train=False)


def _rows(batch: int) -> dict[str, np.ndarray]:
    """int32 [outer batch, batch, length]: one batch of the data."""
    data = tiny.ids(STEPS * tiny.BATCH)
    return {
        name: ids[batch * tiny.BATCH : (batch + 1) * tiny.BATCH].reshape(OUTER, -1, tiny.LENGTH)
        for name, ids in data.items()
    }


def _seen(folder: Path, rows: dict[str, np.ndarray], mode: str) -> Seen:
    """Returns the inputs of each expert layer when one device calls the model once."""
    settings = _make(folder, "one_device").settings
    tf.reset_default_graph()
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    features = {}
    for name, ids in rows.items():
        shape = mtf.Shape(
            [mtf.Dimension(*pair) for pair in zip(("outer_batch", "batch", "length"), ids.shape)]
        )
        features[name] = mtf.import_fully_replicated(mesh, tf.constant(ids), shape)
    given: dict[str, list[Any]] = {}
    original = HierarchicalMoE.__call__

    def spy(moe: HierarchicalMoE, inputs: mtf.Tensor, *args: Any, **kwargs: Any) -> Any:
        name = tf.get_variable_scope().name.rpartition("/")[0]
        given[name] = [moe, inputs, kwargs["importance"]]
        return original(moe, inputs, *args, **kwargs)

    with mock.patch.object(HierarchicalMoE, "__call__", spy):
        call_model.call_model(settings, features, mode)
    lowering = meshes.lower(mesh)
    fetches = {
        name: [lowering.export_to_tf_tensor(tensor) for tensor in tensors]
        for name, (_, *tensors) in given.items()
    }
    weights = tiny.weights(folder)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            if variable.op.name in weights:
                variable.load(weights[variable.op.name], session)
        session.run(lowering.copy_masters_to_slices())
        values = session.run(fetches)
    return {name: (given[name][0], *values[name]) for name in given}


def _compare(folder: Path, calls: list[Seen], reported: dict[str, float], train: bool) -> None:
    weights = tiny.weights(folder)
    expected: dict[str, float] = {}
    for layer in calls[0]:
        of_layer = {
            name[len(f"{layer}/MoELayer/") :]: value
            for name, value in weights.items()
            if name.startswith(f"{layer}/MoELayer/") and name.endswith("kernel")
        }
        oracle = ask_oracle.reference_of(calls[0][layer][0], of_layer, train)
        results, importances = [], []
        for call in calls:
            _, x, importance = call[layer]
            importances.append(ask_oracle.as_streams(importance, has_outer_batch=True, depth=False))
            results.append(
                oracle(ask_oracle.as_streams(x, has_outer_batch=True, depth=True), importances[-1])
            )
        merged = _merged(results)
        for name, value in reference.final_names(
            oracle, merged, np.concatenate(importances, axis=1)
        ).items():
            expected[f"{layer}/{name}"] = value
    assert any(
        value > 0
        for name, value in expected.items()
        if name.endswith("inner/fraction_arrivals_dropped")
    )
    for name, value in expected.items():
        assert reported[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    _compare_with_means(expected, list(calls[0]), reported)


def _compare_with_means(
    expected: dict[str, float], layers: list[str], reported: dict[str, float]
) -> None:
    """Compares the model's metrics: means over its layers, and a sum for the weighted loss."""
    for name in (
        "auxiliary_loss",
        "router_z_loss",
        "fraction_tokens_left_behind",
        "expert_usage",
        "router_confidence",
        "load_imbalance",
        "dead_experts",
    ):
        mean = np.mean([expected[f"{layer}/{name}"] for layer in layers])
        assert reported[f"experts/{name}"] == pytest.approx(mean, rel=1e-4, abs=1e-5), name
    total = sum(expected[f"{layer}/weighted_loss"] for layer in layers)
    assert reported["experts/weighted_loss"] == pytest.approx(total, rel=1e-4)


def _merged(results: list[reference.Result]) -> reference.Result:
    """Merges several calls: all groups, and losses as means over tokens."""
    levels = list(dict.fromkeys(name.split("/")[0] for name in results[0].raw_losses))

    def tokens(result: reference.Result, name: str) -> int:
        level, kind = name.split("/")
        groups = result.groups[levels.index(level)]
        return sum(len(g.real() if kind == "second_place" else g.full()) for g in groups)

    def mean(losses: list[dict[str, float]]) -> dict[str, float]:
        return {
            name: float(
                np.average(
                    [each[name] for each in losses], weights=[tokens(r, name) for r in results]
                )
            )
            for name in losses[0]
        }

    return reference.Result(
        outputs=results[0].outputs,
        losses=mean([result.losses for result in results]),
        raw_losses=mean([result.raw_losses for result in results]),
        groups=[sum(groups, []) for groups in zip(*(result.groups for result in results))],
        reached=np.concatenate([result.reached for result in results], axis=1),
        innermost_slots=sum(result.innermost_slots for result in results),
    )
