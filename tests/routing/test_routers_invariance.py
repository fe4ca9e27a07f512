"""Every router gives the same numbers on every mesh: drawn numbers, balance, steps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import hmoe
from tests import ask_oracle, meshes, reference, seeded, tolerances
from tests.layer.test_invariance import assert_same
from tests.run_layer import run_layer

pytestmark = pytest.mark.usefixtures("mesh_engine")

DIMS = (("outer_batch", 4), ("batch", 8), ("length", 3), ("d_model", 5))

MESHES = {
    "2x2": ("rows:2;cols:2", meshes.TWO_AXES),
    "4x2": ("rows:4;cols:2", meshes.TWO_AXES),
    "4": ("rows:4", meshes.TWO_AXES),
    "1x2": ("rows:1;cols:2", meshes.TWO_AXES),
    "2x2-hidden": ("rows:1;cols:2;hidden:2", meshes.TWO_AXES + ";expert_hidden:hidden"),
}


def two(outer, inner, output_names=("wo",), **both):
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="outer",
                num_experts=6,
                router=outer,
                group_size=6,
                min_capacity=1,
                capacity_factor_train=2.0,
                **both,
            ),
            hmoe.Level(
                name="inner",
                num_experts=12,
                router=inner,
                group_size=8,
                min_capacity=1,
                z_loss_coef=0.01,
                **both,
            ),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=10, output_names=output_names),
        exact_groups=True,
    )


def top(k=2, **more):
    return hmoe.TopKRouter(k=k, policy_train="all", **more)


LAYERS = {
    "switch": lambda: two(
        hmoe.SwitchRouter(
            selection_train="sample", priority=True, gate=hmoe.Gate(jitter=0.2, input_dropout=0.1)
        ),
        hmoe.SwitchRouter(
            retries=2, gate=hmoe.Gate(explore_probability=0.3, explore_temperature=0.9)
        ),
        balance_loss_over="example",
        balance_loss_coef=0.1,
    ),
    "balanced": lambda: two(
        top(retries=1, bias_update_rate=0.05),
        top(priority=True, bias_update_rate=0.05),
        second_place_loss=True,
        balance_loss_over="batch",
        balance_loss_choices="all",
        balance_loss_coef=0.1,
    ),
    "experts-choose": lambda: two(
        hmoe.ExpertChoiceRouter(softmax_over="tokens"),
        top(gate=hmoe.Gate(word_embeddings="concat")),
    ),
    "experts-choose-inner": lambda: two(
        top(gate=hmoe.Gate(word_embeddings="add_stop_grad")),
        hmoe.ExpertChoiceRouter(),
        output_names=("q_wo", "k_wo"),
    ),
    "sigmoid": lambda: two(
        top(3, gate=hmoe.Gate(function="sigmoid", use_bias=True, explore_probability=0.2)),
        hmoe.UniformRouter(k=2, weight_norm=1.0),
        second_place_loss=True,
        balance_loss_over="example",
        balance_loss_choices="all",
    ),
}

# Inputs on which every decision is clear.
SALTS = {}


def inputs(name):
    salt = SALTS.get(name, "")
    return seeded.tokens_of(DIMS, salt), seeded.tokens_of(DIMS, f"words{salt}")


def run(name, mesh_shape="", layout="", steps=3):
    moe = LAYERS[name]()
    x, words = inputs(name)
    return run_layer(
        moe,
        x,
        DIMS,
        importance=seeded.importance_of(DIMS),
        mesh_shape=mesh_shape,
        layout=layout,
        steps=steps,
        output_size=7,
        embeddings=words if moe.uses_embeddings else None,
    )


@meshes.cached
def alone(name):
    return run(name)


# The others draw random numbers, which the oracle does not have.
@pytest.mark.parametrize("name", ["balanced", "experts-choose", "experts-choose-inner"])
def test_inputs_are_not_easy(name):
    moe, single, (x, words) = LAYERS[name](), alone(name), inputs(name)
    layer = ask_oracle.reference_of(moe, single.weights)
    expected = layer(
        ask_oracle.as_streams(x, True, depth=True),
        ask_oracle.as_streams(seeded.importance_of(DIMS), True, depth=False),
        ask_oracle.as_streams(words, True, depth=True),
        rows=8,
    )
    assert reference.smallest_margin(expected) > tolerances.ORACLE_MARGIN
    reference.assert_not_easy(expected, layer.specs, partial=True, padding=True)
    tolerances.assert_close(
        single.outputs, expected.outputs.reshape(single.outputs.shape), tolerances.ORACLE
    )


FAST = [("2x2", name) for name in ("switch", "balanced", "experts-choose")]


@pytest.mark.parametrize(
    ("mesh", "name"),
    [
        case if case in FAST else pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(MESHES, LAYERS)
    ],
)
def test_router_on_a_mesh_equals_one_device(mesh, name):
    assert_same(run(name, *MESHES[mesh]), alone(name))


def test_a_step_moves_the_balance_bias_against_the_load():
    moved = run("balanced", steps=1)
    for level in ("outer", "inner"):
        load, name = moved.sums[f"{level}/load"], f"{level}_gating/balance_bias"
        sign = np.sign(load.mean(axis=-1, keepdims=True) - load)
        assert len(np.unique(sign)) > 1
        expected = moved.weights[name] + 0.05 * (sign - sign.mean(axis=-1, keepdims=True))
        tolerances.assert_close(moved.after[name], expected, tolerances.SAME, name)
