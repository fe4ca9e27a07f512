"""Where nothing may be dropped, no token depends on other examples, nor on what follows it."""

from __future__ import annotations

import pytest

import hmoe
from tests import meshes, seeded, tolerances
from tests.run_layer import run_layer

DIMS = (("batch", 8), ("length", 5), ("d_model", 7))
MESHES = {
    "one device": ("", ""),
    "2x2": ("rows:2;cols:2", meshes.TWO_AXES),
    "1x4": ("rows:1;cols:4", meshes.TWO_AXES),
}


ROUTERS = {
    "top-2": lambda: hmoe.TopKRouter(k=2),
    "random": lambda: hmoe.TopKRouter(k=2, policy_eval="random", threshold_eval=0.9),
    "threshold": lambda: hmoe.TopKRouter(k=3, policy_eval="threshold", weight_norm=None),
    "retries": lambda: hmoe.TopKRouter(k=2, retries=1, priority=True),
    "sampled": lambda: hmoe.SwitchRouter(selection_eval="sample", temperature=3.0),
    "uniform": lambda: hmoe.UniformRouter(k=2, weight_norm=1.0),
    "experts-choose": lambda: hmoe.ExpertChoiceRouter(),
    "experts-choose-over-tokens": lambda: hmoe.ExpertChoiceRouter(softmax_over="tokens"),
}


def layer(name):
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="outer",
                num_experts=4,
                router=ROUTERS[name](),
                group_size=20,
                capacity_factor_eval=0.3,
                min_capacity=1,
            ),
            hmoe.Level(
                name="inner",
                num_experts=2,
                router=ROUTERS[name](),
                examples_per_group=1.0,
                capacity_factor_eval=0.3,
                min_capacity=1,
            ),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=12),
        shared_expert=hmoe.SharedExpert(hidden_size=4),
    )


def outputs(name, x, dims=None, mesh="one device", importance=None, **how):
    dims = dims or tuple(zip(("batch", "length", "d_model"), x.shape))
    shape, layout = MESHES[mesh]
    return run_layer(
        layer(name),
        x,
        dims,
        importance=importance,
        train=False,
        gradients=False,
        drop_tokens=False,
        mesh_shape=shape,
        layout=layout,
        **how,
    ).outputs


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ROUTERS)
def test_examples_know_nothing_of_one_another(name, mesh):
    x = seeded.tokens_of(DIMS)
    importance = seeded.importance_of(DIMS)
    whole = outputs(name, x, importance=importance)
    order = seeded.generator("order").permutation(8)
    shuffled = outputs(name, x[order], mesh=mesh, importance=importance[order])
    tolerances.assert_close(shuffled, whole[order], tolerances.MESHES)
    part = outputs(name, x[2:6], mesh=mesh, importance=importance[2:6])
    tolerances.assert_close(part, whole[2:6], tolerances.MESHES)
    if mesh == "one device":
        alone = outputs(name, x[3:4], importance=importance[3:4])
        tolerances.assert_close(alone, whole[3:4], tolerances.MESHES)


@pytest.mark.parametrize("mesh", ["one device", "2x2"])
@pytest.mark.parametrize("name", ROUTERS)
def test_a_causal_sequence_is_routed_as_its_tokens_are_one_by_one(name, mesh):
    """So a score is that of the distribution that decoding uses; beams are apart too."""
    x = seeded.tokens_of(DIMS)
    whole = outputs(name, x, causal=True)
    for position in (0, 3):
        step = outputs(name, x[:, position], (("batch", 8), ("d_model", 7)), mesh, causal=True)
        tolerances.assert_close(step, whole[:, position], tolerances.MESHES)
    beams = outputs(name, x, (("batch", 8), ("beam", 5), ("d_model", 7)), mesh, causal=True)
    tolerances.assert_close(beams, whole, tolerances.MESHES)


def test_nothing_is_dropped_whatever_the_capacity():
    x = seeded.tokens_of(DIMS)
    roomy = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name=name,
                num_experts=number,
                router=hmoe.TopKRouter(k=2),
                capacity_factor_eval=99.0,
            )
            for name, number in (("outer", 4), ("inner", 2))
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=12),
        shared_expert=hmoe.SharedExpert(hidden_size=4),
    )
    expected = run_layer(roomy, x, DIMS, train=False, gradients=False).outputs
    for causal in (False, True):
        tolerances.assert_close(outputs("top-2", x, causal=causal), expected, tolerances.SAME)
