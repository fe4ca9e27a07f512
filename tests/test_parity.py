"""The same numbers as upstream's layers, and each of upstream's faults that is mended."""
from __future__ import annotations

import numpy as np
import pytest
from mesh_tensorflow.transformer import moe as upstream_moe

import hmoe
from hmoe import groups
from tests import helpers, reference, tolerances
from tests.upstream import Upstream

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 12), ("d_model", 7))
MIXED = helpers.importance_of(DIMS)
WHOLE = helpers.importance_of(DIMS, partial=False)
ONES = np.ones_like(WHOLE)


def router(k, policy):
    return hmoe.TopKRouter(k, policy_train=policy, policy_eval=policy, threshold_train=0.3,
                           threshold_eval=0.3)


def level(name, num_experts, k=2, policy="all", **more):
    settings = dict(group_size=12, min_capacity=1, capacity_factor_train=1.0,
                    capacity_factor_eval=1.0)
    return hmoe.Level(name, num_experts=num_experts, router=router(k, policy),
                      **dict(settings, **more))


def ours(*levels):
    return hmoe.HierarchicalMoE(levels, hmoe.FeedForwardExperts(hidden_size=11))


def two(policy="all", **more):
    return ours(level("outer", 3, policy=policy, **more), level("inner", 5, policy=policy, **more))


def policies(policy):
    return dict(moe_second_policy_train=policy, moe_second_policy_eval=policy)


# Name: (ours, upstream's, importance, train).
CASES = {
    "v1-all-partial": (ours(level("only", 5)), Upstream(5), MIXED, True),
    "v1-none": (
        ours(level("only", 5, policy="none")), Upstream(5, **policies("none")), WHOLE, True),
    "v1-threshold": (
        ours(level("only", 5, policy="threshold")), Upstream(5, **policies("threshold")), WHOLE,
        True),
    "v1-second-place-loss": (
        ours(level("only", 5, second_place_loss=True)),
        Upstream(5, moe_use_second_place_loss=True), ONES, True),
    "v1-eval": (ours(level("only", 5)), Upstream(5), WHOLE, False),
    "v1-top-3-all": (
        ours(level("only", 5, k=3)), Upstream(5, moe_gating="top_n"), WHOLE, True),
    "v1-top-3-threshold": (
        ours(level("only", 5, k=3, policy="threshold")),
        Upstream(5, moe_gating="top_n", **policies("threshold")), WHOLE, True),
    "v2-all": (two(), Upstream([3, 5]), WHOLE, True),
    "v2-none": (two("none"), Upstream([3, 5], **policies("none")), WHOLE, True),
    "v2-threshold": (two("threshold"), Upstream([3, 5], **policies("threshold")), WHOLE, True),
    "v2-eval": (two(), Upstream([3, 5]), None, False),
}


def oracle(moe, weights, x, importance, train):
    layer = helpers.reference_of(moe, weights, train)
    given = np.ones(x.shape[:-1]) if importance is None else importance
    return layer, layer(helpers.as_streams(x, True, depth=True),
                        helpers.as_streams(given, True, depth=False))


@pytest.mark.parametrize("name", CASES)
def test_outputs_losses_and_gradients_are_those_of_upstream(name):
    moe, theirs, importance, train = CASES[name]
    x = helpers.tokens_of(DIMS)
    mine = helpers.run_layer(moe, x, DIMS, importance=importance, train=train)
    other = helpers.run_layer(theirs, x, DIMS, importance=importance, train=train)

    layer, expected = oracle(moe, mine.weights, x, importance, train)
    partial, padding = importance is MIXED, importance is MIXED or importance is WHOLE
    reference.assert_not_easy(expected, layer.specs, partial=partial, padding=padding)
    assert reference.smallest_margin(expected, layer.specs) > 1e-5

    assert sorted(mine.weights) == sorted(other.weights)
    tolerances.assert_close(mine.outputs, other.outputs, tolerances.SAME)
    tolerances.assert_close(mine.loss, other.loss, tolerances.SAME)
    assert sorted(mine.gradients) == sorted(other.gradients)
    for variable, gradient in other.gradients.items():
        tolerances.assert_close(mine.gradients[variable], gradient, tolerances.SAME, variable)
        assert np.abs(gradient).max() > 1e-3


def three_ways(moe, theirs, importance, train=True, values=helpers.weights_of):
    """(ours, upstream's, the oracle's) outputs and loss, without gradients."""
    x = helpers.tokens_of(DIMS)
    runs = [helpers.run_layer(each, x, DIMS, importance=importance, train=train, gradients=False,
                              values=values) for each in (moe, theirs)]
    _, expected = oracle(moe, runs[0].weights, x, importance, train)
    outputs = expected.outputs.reshape(runs[0].outputs.shape)
    tolerances.assert_close(runs[0].outputs, outputs, tolerances.ORACLE)
    tolerances.assert_close(runs[0].loss, expected.loss, tolerances.ORACLE)
    return (runs[0].outputs, runs[0].loss), (runs[1].outputs, runs[1].loss), expected


def test_mended_padding_in_the_second_place_loss():
    moe = ours(level("only", 5, second_place_loss=True))
    mine, theirs, _ = three_ways(moe, Upstream(5, moe_use_second_place_loss=True), WHOLE)
    tolerances.assert_close(mine[0], theirs[0], tolerances.SAME)
    assert theirs[1] > mine[1] + 2e-4


def test_mended_second_place_loss_of_top_n_is_off_by_one():
    moe = ours(level("only", 5, k=3, second_place_loss=True))
    mine, theirs, _ = three_ways(
        moe, Upstream(5, moe_gating="top_n", moe_use_second_place_loss=True), ONES)
    tolerances.assert_close(mine[0], theirs[0], tolerances.SAME)
    assert abs(theirs[1] - mine[1]) > 2e-4


def test_mended_partial_tokens_get_three_experts_in_top_n():
    mine, theirs, _ = three_ways(
        ours(level("only", 5, k=3)), Upstream(5, moe_gating="top_n"), MIXED)
    assert np.abs(mine[0] - theirs[0]).max() > 0.1


def test_mended_partial_tokens_get_no_expert_under_policy_none():
    mine, theirs, expected = three_ways(
        ours(level("only", 5, policy="none", capacity_factor_train=3.0)),
        Upstream(5, moe_capacity_factor_train=3.0, **policies("none")), MIXED)
    partial = (MIXED > 0) & (MIXED < 1)
    assert np.abs(theirs[0][partial]).max() == 0.0
    reached = expected.reached[..., 0].reshape(MIXED.shape) > 0
    assert (np.abs(mine[0]).max(axis=-1) > 0)[partial].tolist() == reached[partial].tolist()
    assert reached[partial].any()


def test_mended_partial_token_becomes_full_at_the_second_level():
    mine, theirs, _ = three_ways(two(), Upstream([3, 5]), MIXED)
    assert np.abs(mine[0] - theirs[0]).max() > 0.1


def test_mended_first_choice_read_back_from_a_weight_above_one_half():
    def ties(name, shape):
        weights = helpers.weights_of(name, shape)
        return np.zeros_like(weights) if name.startswith("outer") else weights

    mine, theirs, expected = three_ways(two(), Upstream([3, 5]), WHOLE, values=ties)
    assert np.abs(mine[0] - theirs[0]).max() > 0.1
    # All first choices of a tie go to the expert of lower number, and are full further in.
    full = [g for g in expected.groups[1] if g.full()]
    assert {g.family for g in full} == {(0,)}


def test_mended_z_loss_is_multiplied_by_the_balance_coefficient():
    moe = ours(level("only", 5, z_loss_coef=0.1))
    mine, theirs, expected = three_ways(moe, Upstream(5, moe_z_loss=0.1), WHOLE)
    balance, z = expected.raw_losses["only/balance"], expected.raw_losses["only/z"]
    assert theirs[1] == pytest.approx(0.01 * (balance + 0.1 * z), rel=1e-5)
    assert mine[1] == pytest.approx(0.01 * balance + 0.1 * z, rel=1e-5)


def test_mended_capacity_above_the_group():
    moe = ours(level("only", 5, group_size=3, min_capacity=4))
    theirs = Upstream(5, moe_group_size=3, moe_min_expert_capacity=4)
    x = helpers.tokens_of(DIMS)
    sizes = []
    for layer in (moe, theirs):
        graph = helpers.run_layer(layer, x, DIMS, importance=WHOLE, gradients=False).graph
        sizes.append({dim.size for op in graph.operations for tensor in op.outputs
                      for dim in tensor.shape.dims if dim.name == "expert_capacity"})
    assert sizes == [{3}, {4}]


@pytest.mark.parametrize(("tokens", "requested", "splits"), [
    (2560, 1024, 1), (1280, 1024, 1), (1000, 300, 1), (96, 20, 4), (30, 7, 2), (12, 12, 3)])
def test_mended_group_size_is_never_above_the_one_asked_for(tokens, requested, splits):
    best = max(size for size in range(1, requested + 1)
               if tokens % size == 0 and (tokens // size) % splits == 0)
    assert groups.largest_group_size(tokens, requested, splits) == best
    _, theirs = upstream_moe._split_into_groups(tokens, requested, splits)
    assert theirs >= best
    if tokens == 1280:
        assert theirs == 1280


def test_mended_training_without_importance():
    x = helpers.tokens_of(DIMS)
    with pytest.raises(Exception, match="dtype|NoneType"):
        helpers.run_layer(Upstream([3, 5]), x, DIMS, gradients=False)
    without = helpers.run_layer(two(), x, DIMS, gradients=False)
    full = helpers.run_layer(two(), x, DIMS, importance=ONES, gradients=False)
    tolerances.assert_close(without.outputs, full.outputs, tolerances.SAME)
    tolerances.assert_close(without.loss, full.loss, tolerances.SAME)
