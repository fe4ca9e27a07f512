"""The layer against the loop oracle: outputs, losses, gradients, metrics."""
from __future__ import annotations

from unittest import mock

import numpy as np
import pytest

import hmoe
from hmoe import metrics
from hmoe.randomness import RandomSource
from tests import helpers, reference, tolerances
from tests.helpers import tf

X5 = dict(num_experts=5, group_size=18, min_capacity=1, capacity_factor_train=1.0)
Y4 = dict(num_experts=4, group_size=10, min_capacity=1)
DIMS = (("outer_batch", 2), ("batch", 3), ("length", 12), ("d_model", 7))
NO_OUTER = (("batch", 6), ("length", 12), ("d_model", 7))
NO_LENGTH = (("outer_batch", 2), ("batch", 36), ("d_model", 7))


def router(k=2, policy="all", other="none", train=True, **more):
    """A router whose policy for the other mode would give other numbers."""
    policies = (policy, other) if train else (other, policy)
    return hmoe.TopKRouter(k, policy_train=policies[0], policy_eval=policies[1], **more)


def flat(*args, level=None, **more):
    return [hmoe.Level("only", router=router(*args, **more), **dict(X5, **(level or {})))]


def two(*args, outer=None, inner=None, **more):
    return [hmoe.Level("outer", router=router(*args, **more), **dict(X5, **(outer or {}))),
            hmoe.Level("inner", router=router(*args, **more), **dict(Y4, **(inner or {})))]


def three(k=2, *args, **more):
    # A second-place loss needs a second choice.
    return [
        hmoe.Level("a", router=router(k, *args, **more), num_experts=2, group_size=18,
                   min_capacity=1, capacity_factor_train=1.0, z_loss_coef=0.03),
        hmoe.Level("b", router=router(k, *args, **more), num_experts=3, group_size=18,
                   min_capacity=1, second_place_loss=k > 1),
        hmoe.Level("c", router=router(k, *args, **more), num_experts=5, group_size=6,
                   min_capacity=1, balance_loss_coef=0.07)]


LOSSES = dict(second_place_loss=True, z_loss_coef=0.02, balance_loss_coef=0.05)
GATED = hmoe.FeedForwardExperts(hidden_size=11, activation=["gelu", "linear"], use_bias=True)
SHARED = hmoe.SharedExpert(hidden_size=17, activation="swish", use_bias=True)

# Name: (levels, more arguments of the layer, how to call it). "train" is True, importance
# full, partial and padding, unless said.
CASES = {
    "one-level-k1": (flat(1), {}, {}),
    "one-level-k2-all": (flat(2, level=LOSSES), {}, {}),
    "one-level-k3-threshold": (flat(3, "threshold", threshold_train=0.25), {}, {}),
    "one-level-k2-random": (flat(2, "random", threshold_train=0.6), {}, {}),
    "one-level-k3-none": (flat(3, "none", "all"), {}, {}),
    "one-level-no-length": (flat(2), {}, {"dims": NO_LENGTH}),
    "one-level-p-norm": (flat(2, weight_norm=2.0), {}, {}),
    "one-level-no-norm": (flat(3, weight_norm=None), {}, {}),
    "two-levels-k1": (two(1), {}, {}),
    "two-levels-k2-all": (two(2, outer=LOSSES, inner=LOSSES), {}, {}),
    "two-levels-k2-none": (two(2, "none", "all"), {}, {"importance": "whole"}),
    "two-levels-k2-threshold": (
        two(2, "threshold", threshold_train=0.3), {}, {"importance": None}),
    "two-levels-k2-random": (two(2, "random", threshold_train=0.7), {}, {}),
    "two-levels-k3-all": (two(3, inner=LOSSES), {}, {}),
    "two-levels-k3-random": (two(3, "random", threshold_train=0.4), {}, {"importance": "whole"}),
    "two-levels-eval-all": (
        two(2, train=False, outer={"capacity_factor_eval": 1.1}), {}, {"train": False}),
    "two-levels-eval-threshold": (
        two(2, "threshold", train=False, threshold_eval=0.35,
            outer={"capacity_factor_eval": 1.0}), {}, {"train": False}),
    "two-levels-eval-random": (
        two(2, "random", train=False, threshold_eval=0.5,
            outer={"capacity_factor_eval": 0.9}), {}, {"train": False}),
    "two-levels-eval-none": (
        two(2, "none", "all", train=False, outer={"capacity_factor_eval": 0.9}), {},
        {"train": False}),
    "two-levels-gated-bias-shared": (
        two(2), {"experts": GATED, "shared_expert": SHARED}, {}),
    "two-levels-inserted-outer-batch": (
        two(2), {"inserted_outer_batch": 2}, {"dims": NO_OUTER}),
    "two-levels-no-outer-batch": (two(2), {}, {"dims": NO_OUTER}),
    "two-levels-factors": (
        two(2, outer=LOSSES, inner=LOSSES), {"aux_loss_factor": 3.0, "router_z_loss_factor": 0.5},
        {}),
    "three-levels-k2": (three(2), {}, {}),
    "three-levels-k1": (three(1), {}, {"importance": "whole"}),
}

UNIFORMS = {}


def known_uniform(self, mesh, shape, dtype=tf.float32):
    """Stands for `RandomSource.uniform`: numbers that the oracle has as well."""
    values = helpers.seeded(self.path).rand(*shape.to_integer_list).astype(np.float32)
    UNIFORMS[self.path.split("/")[-1]] = values
    return helpers.constant(mesh, values, shape.dims)


def importance_for(kind, dims):
    if kind is None:
        return None
    return helpers.importance_of(dims, partial=kind != "whole")


@pytest.mark.parametrize("name", CASES)
def test_layer_equals_the_oracle(name):
    levels, settings, how = CASES[name]
    how = dict({"train": True, "importance": "mixed", "dims": DIMS}, **how)
    dims, train = how["dims"], how["train"]
    settings = dict({"experts": hmoe.FeedForwardExperts(hidden_size=11)}, **settings)
    moe = hmoe.HierarchicalMoE(levels, **settings)
    x = helpers.tokens_of(dims)
    importance = importance_for(how["importance"], dims)
    with mock.patch.object(RandomSource, "uniform", known_uniform):
        run = helpers.run_layer(moe, x, dims, importance=importance, train=train)

    given = np.ones(x.shape[:-1]) if importance is None else importance
    has_outer = dims[0][0] == "outer_batch"
    shape = dict(has_outer_batch=has_outer, inserted=settings.get("inserted_outer_batch", 1))
    of_tokens = helpers.as_streams(given, depth=False, **shape)

    def oracle(weights, inputs):
        layer = helpers.reference_of(moe, weights, train, uniforms=UNIFORMS)
        layer.weights = {k: np.asarray(v, np.float64) for k, v in weights.items()}
        for spec in layer.specs:
            spec.balance_coef *= settings.get("aux_loss_factor", 1.0)
            spec.z_coef *= settings.get("router_z_loss_factor", 1.0)
        return layer, layer(helpers.as_streams(inputs, depth=True, **shape), of_tokens)

    layer, expected = oracle(run.weights, x)
    reference.assert_not_easy(expected, layer.specs, partial=how["importance"] == "mixed",
                              padding=how["importance"] is not None)
    assert reference.smallest_margin(expected, layer.specs) > 1e-5

    outputs = helpers.from_streams(expected.outputs, x.shape[:-1], **shape)
    tolerances.assert_close(run.outputs, outputs, tolerances.ORACLE)
    for kind, value in run.losses.items():
        tolerances.assert_close(value, expected.losses[kind], tolerances.ORACLE, kind)
    tolerances.assert_close(run.loss, expected.loss, tolerances.ORACLE)
    compare_names(layer, expected, of_tokens, run)

    direction = helpers.seeded("direction").randn(*run.outputs.shape)
    helpers.compare_gradients(
        run, lambda weights, inputs: objective(*oracle(weights, inputs), direction, x, shape), x,
        tolerances.DIFFERENCES_STEP, tolerances.DIFFERENCES)


def objective(layer, expected, direction, x, shape):
    outputs = helpers.from_streams(expected.outputs, x.shape[:-1], **shape)
    return float(np.sum(outputs * direction)) + expected.loss


def compare_names(layer, expected, of_tokens, run):
    """All final names; a level with one choice has a second rank that nobody has."""
    named = metrics.summarize({"layer": run.sums})
    known = reference.final_names(layer, expected, of_tokens)
    for name, value in known.items():
        tolerances.assert_close(named.pop(f"layer/{name}"), value, tolerances.ORACLE, name)
    for name, value in named.items():
        if name.startswith("experts/"):
            tolerances.assert_close(value, known[name[len("experts/"):]], tolerances.ORACLE, name)
        else:
            assert "_rank_" in name, name
            assert value == 0.0
