"""The same numbers as a Mixtral block of `transformers`; record_mixtral.py asked for them.

The block has no capacity, so outputs are compared where every expert has room for all.
"""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from tests import tolerances
from tests.peers import ours, recorded

RECORDED = recorded.load("mixtral")
BALANCE_WEIGHT = 0.5

# Name: (experts, experts per token).
CASES = {"two_of_five": (5, 2), "three_of_four": (4, 3)}


def router(k):
    return hmoe.TopKRouter(k=k, policy_train="all")


def layer(num_experts, k, capacity_factor):
    # Theirs sums shares over all k choices; ours are shares of all choices.
    level = hmoe.Level(
        name="only",
        num_experts=num_experts,
        router=router(k),
        group_size=24,
        min_capacity=1,
        capacity_factor_train=capacity_factor,
        balance_loss_over="batch",
        balance_loss_choices="all",
        balance_loss_coef=BALANCE_WEIGHT * k,
    )
    return hmoe.HierarchicalMoE(
        levels=[level],
        experts=hmoe.FeedForwardExperts(hidden_size=11, activation=["swish", "linear"]),
    )


@pytest.mark.parametrize("name", CASES)
def test_outputs_loss_and_gradients_are_those_of_a_mixtral_block(name):
    num_experts, k = CASES[name]
    case = RECORDED[name]
    mine = ours.run(layer(num_experts, k, capacity_factor=num_experts), case)
    assert ours.summary(mine)["only/fraction_arrivals_dropped"] == 0.0
    ours.assert_same(mine, case, router(k))
    tolerances.assert_close(mine.loss, BALANCE_WEIGHT * case["loss"], tolerances.PEERS)


@pytest.mark.parametrize("name", CASES)
def test_router_alone_gives_the_weights_of_a_mixtral_block(name):
    num_experts, k = CASES[name]
    case = RECORDED[name]
    tokens = case["inputs"].reshape([1, 24, 7])
    mine = ours.expert_weights(
        router(k), tokens, {"kernel": case["weights/gating/kernel"]}, num_experts, capacity=24
    )
    theirs = np.zeros((24, num_experts))
    np.put_along_axis(theirs, case["expert_indices"].astype(int), case["expert_weights"], axis=1)
    tolerances.assert_close(mine[0], theirs, tolerances.PEERS)


@pytest.mark.parametrize("name", CASES)
def test_loss_is_the_same_where_our_experts_overflow(name):
    num_experts, k = CASES[name]
    case = RECORDED[name]
    mine = ours.run(layer(num_experts, k, capacity_factor=0.5), case, gradients=False)
    assert ours.summary(mine)["only/fraction_arrivals_dropped"] > 0.1
    tolerances.assert_close(mine.loss, BALANCE_WEIGHT * case["loss"], tolerances.PEERS)


@pytest.mark.parametrize("name", CASES)
def test_losses_with_padding_divide_by_tokens_in_both(name):
    num_experts, k = CASES[name]
    case = RECORDED[name]
    real = ~case["padding"]
    mine = ours.run(
        layer(num_experts, k, num_experts),
        case,
        gradients=False,
        importance=real.astype(np.float32),
    )
    assert 0 < real.mean() < 1
    tolerances.assert_close(mine.loss, BALANCE_WEIGHT * case["masked_loss"], tolerances.PEERS)
