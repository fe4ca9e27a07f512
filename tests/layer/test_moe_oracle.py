"""The layer against the loop oracle: outputs, losses, gradients, metrics."""

from __future__ import annotations

import pytest

import hmoe
from tests import oracle

X5 = dict(num_experts=5, group_size=18, min_capacity=1, capacity_factor_train=1.0)
Y4 = dict(num_experts=4, group_size=10, min_capacity=1)
NO_OUTER = (("batch", 6), ("length", 12), ("d_model", 7))
NO_LENGTH = (("outer_batch", 2), ("batch", 36), ("d_model", 7))


def router(k=2, policy="all", other="none", train=True, **more):
    """A router whose policy for the other mode would give other numbers."""
    policies = (policy, other) if train else (other, policy)
    return hmoe.TopKRouter(k=k, policy_train=policies[0], policy_eval=policies[1], **more)


def flat(*args, level=None, **more):
    return [hmoe.Level(name="only", router=router(*args, **more), **dict(X5, **(level or {})))]


def two(*args, outer=None, inner=None, **more):
    return [
        hmoe.Level(name="outer", router=router(*args, **more), **dict(X5, **(outer or {}))),
        hmoe.Level(name="inner", router=router(*args, **more), **dict(Y4, **(inner or {}))),
    ]


def three(k=2, *args, **more):
    # A second-place loss needs a second choice.
    return [
        hmoe.Level(
            name="a",
            router=router(k, *args, **more),
            num_experts=2,
            group_size=18,
            min_capacity=1,
            capacity_factor_train=1.0,
            z_loss_coef=0.03,
        ),
        hmoe.Level(
            name="b",
            router=router(k, *args, **more),
            num_experts=3,
            group_size=18,
            min_capacity=1,
            second_place_loss=k > 1,
        ),
        hmoe.Level(
            name="c",
            router=router(k, *args, **more),
            num_experts=5,
            group_size=6,
            min_capacity=1,
            balance_loss_coef=0.07,
        ),
    ]


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
    "two-levels-k2-threshold": (two(2, "threshold", threshold_train=0.3), {}, {"importance": None}),
    "two-levels-k2-random": (two(2, "random", threshold_train=0.7), {}, {}),
    "two-levels-k3-all": (two(3, inner=LOSSES), {}, {}),
    "two-levels-k3-random": (two(3, "random", threshold_train=0.4), {}, {"importance": "whole"}),
    "two-levels-eval-all": (
        two(2, train=False, outer={"capacity_factor_eval": 1.1}),
        {},
        {"train": False},
    ),
    "two-levels-eval-threshold": (
        two(2, "threshold", train=False, threshold_eval=0.35, outer={"capacity_factor_eval": 1.0}),
        {},
        {"train": False},
    ),
    "two-levels-eval-random": (
        two(2, "random", train=False, threshold_eval=0.5, outer={"capacity_factor_eval": 0.9}),
        {},
        {"train": False},
    ),
    "two-levels-eval-none": (
        two(2, "none", "all", train=False, outer={"capacity_factor_eval": 0.9}),
        {},
        {"train": False},
    ),
    "two-levels-gated-bias-shared": (two(2), {"experts": GATED, "shared_expert": SHARED}, {}),
    "two-levels-inserted-outer-batch": (two(2), {"inserted_outer_batch": 2}, {"dims": NO_OUTER}),
    "two-levels-no-outer-batch": (two(2), {}, {"dims": NO_OUTER}),
    "two-levels-factors": (
        two(2, outer=LOSSES, inner=LOSSES),
        {"aux_loss_factor": 3.0, "router_z_loss_factor": 0.5},
        {},
    ),
    "three-levels-k2": (three(2), {}, {}),
    "three-levels-k1": (three(1), {}, {"importance": "whole"}),
}


@pytest.mark.parametrize("name", CASES)
def test_layer_equals_the_oracle(name):
    levels, settings, how = CASES[name]
    case = oracle.Case(levels, settings, **how)
    case.assert_hard_and_clear()
    case.assert_same_numbers()
    case.assert_same_gradients()
