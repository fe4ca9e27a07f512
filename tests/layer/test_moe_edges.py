"""Settings at their edges: small powers, biases at rest, one expert, decoding, importance."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.layer import metrics
from tests import seeded, tolerances
from tests.run_layer import run_layer

DIMS = (("outer_batch", 2), ("batch", 4), ("length", 6), ("d_model", 7))


def layer(outer, inner=None, experts=(3, 5), metrics="brief", **level):
    routers = [outer] + ([inner] if inner else [])
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name=name,
                num_experts=number,
                router=router,
                **dict({"group_size": 12, "min_capacity": 1}, **level),
            )
            for name, number, router in zip(("outer", "inner"), experts, routers)
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11),
        metrics=metrics,
    )


def run(moe, **more):
    more = dict({"importance": seeded.importance_of(DIMS)}, **more)
    return run_layer(moe, seeded.tokens_of(DIMS), DIMS, **more)


@pytest.mark.parametrize("norm", [0.25, 0.5, 4.0])
def test_norms_leave_gradients_finite_where_nothing_was_chosen(norm):
    """Padding and empty inner slots have no choices to divide by."""
    router = hmoe.TopKRouter(k=2, policy_train="all", weight_norm=norm)
    gradients = run(layer(router, router)).gradients
    assert all(np.isfinite(value).all() for value in gradients.values())
    assert all(
        np.abs(gradients[f"{name}_gating/kernel"]).max() > 1e-3 for name in ("outer", "inner")
    )


def test_bias_at_rate_0_chooses_and_rests():
    def value(name, shape):
        return seeded.weights_of(name, shape) * (5.0 if name.endswith("balance_bias") else 1.0)

    results = {}
    for rate in (None, 0.0, 0.1):
        updates = []

        def call(*args, rate=rate, updates=updates, **more):
            result = layer(hmoe.TopKRouter(k=2, policy_train="all", bias_update_rate=rate))(
                *args, **more
            )
            updates += result.bias_updates
            return result

        results[rate] = (run(call, gradients=False, values=value).outputs, len(updates))
    assert [number for _, number in results.values()] == [0, 0, 1]
    np.testing.assert_array_equal(results[0.0][0], results[0.1][0])
    assert np.abs(results[0.0][0] - results[None][0]).max() > 1e-2


def test_exploring_leaves_one_expert_alone():
    gate = hmoe.Gate(explore_probability=1.0)
    levels = [
        layer(hmoe.SwitchRouter(gate=each), experts=(1,), z_loss_coef=0.1)
        for each in (hmoe.Gate(), gate)
    ]
    plain, explored = (run(moe, gradients=False) for moe in levels)
    np.testing.assert_array_equal(plain.outputs, explored.outputs)
    assert plain.loss == explored.loss


def test_groups_of_examples_change_nothing_where_nothing_is_dropped():
    router = hmoe.TopKRouter(k=2)
    by_tokens, by_examples = (
        run(
            layer(router, router, experts=(3, 4), **size),
            gradients=False,
            train=False,
            drop_tokens=False,
        ).outputs
        for size in ({"group_size": 24}, {"examples_per_group": 3.5})
    )
    tolerances.assert_close(by_examples, by_tokens, tolerances.SAME)


def test_importance_has_three_values():
    importance = seeded.importance_of(DIMS)
    assert {0.0, 0.5, 1.0} == set(np.unique(importance))
    odd = np.where(importance == 0.5, 0.9995, np.where(importance == 1.0, 3.0, -1.0))
    router = hmoe.TopKRouter(k=2, policy_train="all")
    usual, strange = (
        run(layer(router, router), importance=each.astype(np.float32)) for each in (importance, odd)
    )
    np.testing.assert_array_equal(usual.outputs, strange.outputs)
    assert usual.loss == strange.loss


@pytest.mark.parametrize(
    ("router", "ranks"),
    [(hmoe.SwitchRouter(), 1), (hmoe.TopKRouter(k=3), 3), (hmoe.ExpertChoiceRouter(), 1)],
    ids=["switch", "top-3", "expert-choice"],
)
def test_full_metrics_tell_the_ranks_that_there_are(router, ranks):
    sums = run(layer(router, metrics="full"), gradients=False).sums
    named = metrics.summarize({"x": sums})
    assert sorted(name for name in named if "gate_mean" in name) == [
        f"x/outer/gate_mean_rank_{rank}" for rank in range(ranks)
    ]
