"""The same numbers as TF Model Garden's expert choice; record_model_garden.py asked for them."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.layer.capacity import expert_capacity
from tests import tolerances
from tests.peers import ours, recorded

RECORDED = recorded.load("model_garden")

# Name: (settings of the level, activation, train, hidden size of the backbone, slots).
CASES = {
    "two_examples": (dict(examples_per_group=2, capacity_factor_train=1.25), "gelu", True, None, 3),
    "half_an_example": (
        dict(examples_per_group=0.5, capacity_factor_eval=1.7),
        "relu",
        False,
        None,
        1,
    ),
    "backbone": (dict(examples_per_group=4, capacity_factor_train=0.85), "gelu", True, 9, 4),
    "backbone_by_example": (
        dict(examples_per_group=1, capacity_factor_train=0.85),
        "relu",
        True,
        9,
        1,
    ),
}


def router():
    return hmoe.ExpertChoiceRouter(softmax_over="experts", gate=hmoe.Gate(use_bias=True))


@pytest.fixture(params=CASES)
def both(request):
    """(what was recorded, our run, slots)."""
    settings, activation, train, backbone, slots = CASES[request.param]
    case = RECORDED[request.param]
    feed_forward = dict(activation=activation, use_bias=True)
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="only",
                num_experts=5,
                router=router(),
                min_capacity=1,
                z_loss_coef=0.3,
                **settings,
            )
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11, **feed_forward),
        shared_expert=backbone and hmoe.SharedExpert(hidden_size=backbone, **feed_forward),
    )
    return case, ours.run(moe, case, train=train), slots


def test_outputs_loss_and_gradients_are_those_of_model_garden(both):
    case, mine, _ = both
    ours.assert_same(mine, case, router())
    tolerances.assert_close(mine.loss, case["loss"], tolerances.PEERS)
    assert mine.losses["only/balance"] == 0.0


def test_metrics_are_those_of_model_garden(both):
    case, mine, _ = both
    theirs, named = recorded.part(case, "metrics"), ours.summary(mine)
    for name in ("fraction_tokens_left_behind", "router_confidence", "expert_usage"):
        of_level = name.replace("tokens_left_behind", "arrivals_dropped")
        tolerances.assert_close(named[f"only/{of_level}"], theirs[name], tolerances.PEERS, name)
        tolerances.assert_close(named[name], theirs[name], tolerances.PEERS, name)
    tolerances.assert_close(
        named["only/router_z_loss"], theirs["unscaled_router_z_loss"], tolerances.PEERS
    )
    tolerances.assert_close(
        named["only/auxiliary_loss"], theirs["load_balancing_loss"], tolerances.PEERS
    )
    assert theirs["expert_usage"] == 1.0


def test_router_alone_gives_the_combine_weights_of_model_garden(both):
    case, _, slots = both
    kernels = {name: case[f"weights/expert_selection_gating/{name}"] for name in ("kernel", "bias")}
    theirs = case["combine"]
    tokens = case["inputs"].reshape(theirs.shape[:2] + (-1,))
    mine = ours.expert_weights(router(), tokens, kernels, 5, slots)
    tolerances.assert_close(mine, theirs, tolerances.PEERS)
    # Every expert is full, some tokens go to several, some to none.
    assert ((theirs > 0).sum(axis=1) == slots).all()
    assert sorted(np.unique((theirs > 0).sum(axis=2)))[:2] == [0, 1]
    assert (theirs > 0).sum(axis=2).max() > 1


def test_our_capacity_is_rounded_down_where_theirs_goes_to_the_nearest():
    """Groups of 12 at a factor of 1.2 for 5 experts: 2.88 slots. 3 take a factor of 1.25."""
    slots = (RECORDED["two_examples"]["combine"] > 0).sum(axis=1)
    assert (slots == 3).all()
    assert [expert_capacity("only", 12, factor, 5, 1) for factor in (1.2, 1.25)] == [2, 3]
