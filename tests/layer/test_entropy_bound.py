"""The bound on entropies: by hand, and never below the entropy of any tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hmoe
from hmoe.layer import metric_sums
from hmoe.layer.entropy_bound import entropy_at_most, highest_weight_at_least
from hmoe.routing.router import Router
from tests import seeded
from tests.run_layer import run_layer

NUM_EXPERTS = 5
#: Routers, with k and whether their weights sum to one.
ROUTERS: dict[str, tuple[Router, int, bool]] = {
    "switch": (hmoe.SwitchRouter(), 1, False),
    "top_1": (hmoe.TopKRouter(k=1), 1, False),
    "top_2": (hmoe.TopKRouter(), 2, True),
    "top_3": (hmoe.TopKRouter(k=3), 3, True),
    "top_5": (hmoe.TopKRouter(k=9), 5, True),
    "top_2_not_divided": (hmoe.TopKRouter(weight_norm=None), 2, False),
    "sigmoid": (hmoe.TopKRouter(gate=hmoe.Gate(function="sigmoid")), 2, True),
    "any_expert": (hmoe.UniformRouter(), 1, False),
    "experts_choose": (hmoe.ExpertChoiceRouter(), 3, False),
}


def sums(**fields: float) -> dict[str, float]:
    return {"full": 10, "real": 10, "dropped": 0, "filled": 10, "confidence": 9, **fields}


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({}, 0.9),
        # 2 of 10 tokens have a second slot, beside which the first has half the weight or more.
        ({"filled": 12, "confidence": 9.5}, 0.85),
        # Of 8 tokens with a slot the weights are 7.2.
        ({"filled": 8, "dropped": 2, "confidence": 7.2}, 0.9),
        # 2 of 10 are partial, with weights of 1: the other 8 have 7.
        ({"full": 8}, 7 / 8),
        # All that is missing could be of the one full token that has a slot.
        ({"full": 2, "dropped": 1, "filled": 9, "confidence": 8.5}, 0.5),
        ({"full": 1, "dropped": 1, "filled": 9}, None),
        ({"confidence": 10.00001}, 1.0),
    ],
)
def test_highest_weight(fields: dict[str, float], weight: float | None) -> None:
    found = highest_weight_at_least(sums(**fields))
    assert found == (weight if weight is None else pytest.approx(weight))


def test_bound_by_hand() -> None:
    switch, top_2 = hmoe.SwitchRouter(), hmoe.TopKRouter()
    # h(0.9) + 0.1 * ln 4, which four experts with 0.025 each have.
    assert entropy_at_most(sums(), switch, 5) == pytest.approx(
        -0.9 * math.log(0.9) - 0.1 * math.log(0.025)
    )
    # 0.9 and 0.1 of the two best: at most 0.1 / 0.9 of the best for each of the three others too.
    best = 0.9 / (1 + 3 * 0.1)
    assert entropy_at_most(sums(), top_2, 5) == pytest.approx(
        -best * math.log(best) - 4 * (best / 9) * math.log(best / 9)
    )
    assert entropy_at_most(sums(confidence=10), top_2, 5) == 0.0
    # Nothing is known of a router that has less than an even share.
    assert entropy_at_most(sums(confidence=1.9), switch, 5) == math.log(5)
    assert entropy_at_most(sums(), switch, 1) == 0.0


@pytest.mark.parametrize(
    "router",
    [
        None,
        hmoe.SwitchRouter(gate=hmoe.Gate(function="sigmoid")),
        hmoe.TopKRouter(weight_norm=2.0),
        hmoe.TopKRouter(bias_update_rate=0.01),
        hmoe.UniformRouter(k=2, weight_norm=1.0),
        hmoe.ExpertChoiceRouter(softmax_over="tokens"),
        hmoe.ExpertChoiceRouter(gate=hmoe.Gate(function="sigmoid")),
    ],
)
def test_weights_that_bound_nothing(router: Router | None) -> None:
    assert entropy_at_most(sums(), router, 5) is None


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("name", ROUTERS)
def test_no_entropy_is_above_the_bound(name: str, sharpness: float) -> None:
    """Of 400 tokens of any kind, some of them partial, with some of their choices dropped."""
    router, k, divided = ROUTERS[name]
    random = np.random.default_rng(int(sharpness * 10))
    logits = sharpness * random.standard_normal([400, NUM_EXPERTS])
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    if name == "sigmoid":
        probabilities = 1 / (1 + np.exp(-logits)) + 1e-7
    shares = probabilities / probabilities.sum(axis=-1, keepdims=True)
    order = np.argsort(-shares, axis=-1)
    if name in ("any_expert", "experts_choose"):
        order = random.permuted(order, axis=-1)
    weights = np.take_along_axis(shares, order[:, :k], axis=-1)
    if divided:
        weights /= weights.sum(axis=-1, keepdims=True)
    partial = random.random(400) < 0.1
    if divided:
        weights[partial] = [1.0] + [0.0] * (k - 1)
    kept = random.random(weights.shape) < np.minimum(1.0, weights / 0.2) * 0.9
    counted = kept.any(axis=-1) & ~partial
    assert counted.sum() > 50
    entropies = -(shares * np.log(shares + 1e-300)).sum(axis=-1)
    bound = entropy_at_most(
        {
            "full": (~partial).sum(),
            "real": 400,
            "dropped": (~kept.any(axis=-1)).sum(),
            "filled": kept.sum(),
            "confidence": (weights * kept).sum(),
        },
        router,
        NUM_EXPERTS,
    )
    assert bound is not None
    assert entropies[counted].mean() <= bound <= math.log(NUM_EXPERTS)


@pytest.mark.parametrize("router", ["switch", "top_2", "sigmoid"])
def test_bound_of_a_layer(router: str) -> None:
    """Of the sums of a call, with room for all tokens, beside the entropy that it measures."""
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name=name,
                num_experts=size,
                router=ROUTERS[router][0],
                group_size=12,
                capacity_factor_train=10.0,
            )
            for name, size in (("outer", 3), ("inner", 5))
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11),
        exact_groups=True,
        metrics="full",
    )
    dims = (("outer_batch", 2), ("batch", 2), ("length", 6), ("d_model", 7))
    found = run_layer(moe, 20 * seeded.tokens_of(dims), dims, gradients=False)
    for level, size in (("outer", 3), ("inner", 5)):
        tokens = metric_sums.decode_tokens(found.sums[metric_sums.tokens_name(level)]).sums
        assert tokens["dropped"] == 0
        bound = entropy_at_most(tokens, moe.levels[0].router, size)
        assert bound is not None
        assert tokens["entropy"] / tokens["full"] <= bound < math.log(size)
