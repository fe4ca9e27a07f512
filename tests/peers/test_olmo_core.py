"""The same numbers as OLMo-core's router; record_olmo_core.py asked for them.

The router knows no capacity: outputs are compared where every expert has room for all, losses
and loads where experts overflow too.
"""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.routing import balancing
from tests import graphs, meshes, tolerances
from tests.peers import ours, recorded

RECORDED = recorded.load("olmo_core")
GAMMA = 0.03

SOFTMAX, SIGMOID = hmoe.Gate(), hmoe.Gate(function="sigmoid")


def top_k(k, weight_norm=None, gate=SOFTMAX, biased=False):
    return hmoe.TopKRouter(
        k=k,
        policy_train="all",
        weight_norm=weight_norm,
        gate=gate,
        bias_update_rate=GAMMA if biased else None,
    )


# Name: (our router, what the balance loss is over).
CASES = {
    "softmax_1_batch": (top_k(1), "batch"),
    "softmax_2_sum_example": (top_k(2, 1.0), "example"),
    "softmax_3_euclid_batch": (top_k(3, 2.0), "batch"),
    "sigmoid_1_example": (top_k(1, gate=SIGMOID), "example"),
    "sigmoid_2_plain_example": (top_k(2, gate=SIGMOID), "example"),
    "sigmoid_2_sum_batch_biased": (top_k(2, 1.0, SIGMOID, biased=True), "batch"),
    "softmax_3_cubic_example_biased": (top_k(3, 3.0, biased=True), "example"),
    "uniform_1_batch": (hmoe.UniformRouter(k=1, gate=SIGMOID), "batch"),
    "uniform_3_sum_example": (hmoe.UniformRouter(k=3, weight_norm=1.0), "example"),
}


def layer(router, over="group", capacity_factor=5.0):
    level = hmoe.Level(
        name="only",
        num_experts=5,
        router=router,
        group_size=24,
        min_capacity=1,
        capacity_factor_train=capacity_factor,
        balance_loss_over=over,
        balance_loss_choices="all",
        balance_loss_coef=0.5,
        z_loss_coef=0.3,
    )
    return hmoe.HierarchicalMoE(levels=[level], experts=hmoe.FeedForwardExperts(hidden_size=4))


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_olmo_core(name):
    router, over = CASES[name]
    case = RECORDED[name]
    mine = ours.run(layer(router, over), case)
    overflowing = ours.run(layer(router, over, capacity_factor=0.6), case, gradients=False)
    ours.assert_same(mine, case, router)
    theirs = recorded.part(case, "metrics")
    for run in (mine, overflowing):
        named = ours.summary(run)
        tolerances.assert_close(run.loss, case["loss"], tolerances.PEERS)
        tolerances.assert_close(
            run.losses["only/balance"], theirs["load balancing loss"], tolerances.PEERS
        )
        tolerances.assert_close(run.losses["only/z"], theirs["router Z loss"], tolerances.PEERS)
        tolerances.assert_close(
            named["only/auxiliary_loss"], theirs["load balancing loss unscaled"], tolerances.PEERS
        )
        tolerances.assert_close(
            named["only/router_z_loss"], theirs["router Z loss unscaled"], tolerances.PEERS
        )
        tolerances.assert_close(
            named["only/load_imbalance"], theirs["load imbalance"], tolerances.PEERS
        )
        assert run.sums["only/load"].tolist() == case["load"].tolist()
    assert ours.summary(mine)["only/fraction_arrivals_dropped"] == 0.0
    assert ours.summary(overflowing)["only/fraction_tokens_dropped"] > 0.0


@pytest.mark.parametrize("name", CASES)
def test_router_alone_gives_the_weights_of_olmo_core(name):
    router, _ = CASES[name]
    case = RECORDED[name]
    mine = ours.expert_weights(
        router,
        case["inputs"].reshape([1, 24, 7]),
        recorded.part(case, "weights/gating"),
        5,
        capacity=24,
    )
    theirs = np.zeros((3, 8, 5))
    np.put_along_axis(theirs, case["expert_indices"].astype(int), case["expert_weights"], axis=2)
    tolerances.assert_close(mine.reshape(theirs.shape), theirs, tolerances.PEERS)


def test_one_choice_keeps_its_probability_where_theirs_is_divided_by_itself():
    """Their outputs then tell the router nothing; ours still do."""
    case = RECORDED["softmax_1_sum_batch"]
    router = top_k(1, weight_norm=1.0)
    mine = ours.run(layer(router, "batch"), case)
    tolerances.assert_close(mine.loss, case["loss"], tolerances.PEERS)
    assert np.unique(case["expert_weights"]).tolist() == [1.0]
    weights = (
        ours.expert_weights(
            router,
            case["inputs"].reshape([1, 24, 7]),
            recorded.part(case, "weights/gating"),
            5,
            capacity=24,
        )
        .sum(axis=2)
        .reshape([3, 8, 1])
    )
    assert weights.max() < 1.0
    tolerances.assert_close(mine.outputs, case["outputs"] * weights, tolerances.PEERS)


def test_bias_changes_who_is_chosen():
    router, _ = CASES["sigmoid_2_sum_batch_biased"]
    case = RECORDED["sigmoid_2_sum_batch_biased"]
    kernels = recorded.part(case, "weights/gating")
    kernels["balance_bias"] = kernels["balance_bias"] * 0
    unbiased = ours.expert_weights(
        router, case["inputs"].reshape([1, 24, 7]), kernels, 5, capacity=24
    )
    chosen = np.sort(case["expert_indices"].reshape([24, 2]), axis=1)
    assert (np.argwhere(unbiased[0] > 0)[:, 1].reshape([24, 2]) != chosen).any(axis=1).sum() >= 3


def test_bias_after_each_step_is_that_of_olmo_core_but_for_a_constant():
    case = RECORDED["balancing"]
    steps, microbatches, *shape = case["inputs"].shape
    moe = layer(top_k(2, 1.0, SIGMOID, biased=True), capacity_factor=0.6)
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        fed = tf.placeholder(tf.float32, shape)
        tokens = mtf.import_tf_tensor(
            mesh,
            fed,
            mtf.Shape(graphs.mtf_dims(tuple(zip(("batch", "length", "d_model"), shape)))),
        )
        result = moe(tokens, mtf.Dimension("d_out", 6), train=True)
        (bias,) = [update.bias for update in result.bias_updates]
        fed_load = tf.placeholder(tf.float32, [5])
        load = mtf.import_tf_tensor(mesh, fed_load, bias.shape)
        updates = balancing.apply_all(result.bias_updates, {"only/load": load})
        lowering = meshes.lower(mesh)
        fetched = lowering.export_to_tf_tensor(result.metrics["only/load"])
        fetched_bias = lowering.export_to_tf_tensor(bias)
        update = tf.group([lowering.lowered_operation(op) for op in updates])
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            graphs.load_weights(
                session,
                lowering,
                lambda name, shape: (
                    case["weights/gating/kernel"]
                    if name.endswith("gating/kernel")
                    else np.zeros(shape, np.float32)
                ),
            )
            for step in range(steps):
                loads = [
                    session.run(fetched, {fed: case["inputs"][step, number]})
                    for number in range(microbatches)
                ]
                assert np.sum(loads, axis=0).tolist() == case["load"][step].tolist()
                imbalance = np.max(np.sum(loads, axis=0)) / np.mean(np.sum(loads, axis=0))
                tolerances.assert_close(imbalance, case["load_imbalance"][step], tolerances.PEERS)
                session.run(update, {fed_load: np.sum(loads, axis=0)})
                mine, theirs = session.run(fetched_bias), case["score_bias"][step]
                tolerances.assert_close(mine, theirs - theirs.mean(), tolerances.PEERS)
                assert abs(mine.mean()) < 1e-7
    # The bias has moved enough to send tokens elsewhere, and the load is more even.
    assert case["load_imbalance"][-1] < case["load_imbalance"][0]
