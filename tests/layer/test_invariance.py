"""The same numbers on every mesh: outputs, losses, gradients, sums, weights after steps."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import hmoe
from tests import ask_oracle, meshes, reference, seeded, tolerances
from tests.run_layer import LEARNING_RATE, run_layer

pytestmark = pytest.mark.usefixtures("mesh_engine")

SIZES = dict(outer_batch=8, batch=16, length=3, d_model=5)
DIMS = tuple(SIZES.items())
ONE_LEVEL = "batch:cols;experts:cols"

# Mesh shape and layout; what is fast enough stands first.
MESHES = {
    "2x2": ("rows:2;cols:2", meshes.TWO_AXES),
    "4x2": ("rows:4;cols:2", meshes.TWO_AXES),
    "2": ("rows:2", meshes.TWO_AXES),
    "4": ("cols:4", meshes.TWO_AXES),
    "2x4": ("rows:2;cols:4", meshes.TWO_AXES),
    "8": ("rows:8", meshes.TWO_AXES),
    "1x1": ("rows:1;cols:1", meshes.TWO_AXES),
    "1x4": ("rows:1;cols:4", meshes.TWO_AXES),
    "1x8": ("rows:1;cols:8", meshes.TWO_AXES),
    "8x1": ("rows:8;cols:1", meshes.TWO_AXES),
    "1x2x2-hidden": ("rows:1;cols:2;hidden:2", meshes.TWO_AXES + ";expert_hidden:hidden"),
    "2x2x2-hidden": ("rows:2;cols:2;hidden:2", meshes.TWO_AXES + ";expert_hidden:hidden"),
}
FAST = ("2x2", "1x1", "1x4", "1x2x2-hidden")


def two(policy="all", **more):
    def router():
        return hmoe.TopKRouter(k=2, policy_train=policy, threshold_train=0.6)

    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="outer",
                num_experts=24,
                router=router(),
                group_size=6,
                min_capacity=1,
                z_loss_coef=0.01,
            ),
            hmoe.Level(
                name="inner",
                num_experts=32,
                router=router(),
                group_size=8,
                min_capacity=1,
                second_place_loss=True,
            ),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=10, **more),
    )


def one():
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="only",
                num_experts=24,
                router=hmoe.TopKRouter(k=3, policy_train="all"),
                group_size=6,
                min_capacity=1,
            )
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=10),
    )


LAYERS = {
    "two": (two, ["outer_gating", "inner_gating"]),
    "random": (
        functools.partial(two, "random", dropout_rate=0.3),
        ["outer_gating", "inner_gating"],
    ),
    "one": (one, ["top_n_gating"]),
}
KERNELS = {"outer_gating": (5, 24), "inner_gating": (24, 5, 32), "top_n_gating": (5, 24)}


def run(name, mesh_shape="", layout="", steps=3, **more):
    build, gatings = LAYERS[name]
    kernels = [seeded.weights_of(f"{g}/kernel", KERNELS[g]) for g in gatings]
    x = seeded.clear_tokens(DIMS, kernels, k=3 if name == "one" else 2)
    return run_layer(
        build(),
        x,
        DIMS,
        importance=seeded.importance_of(DIMS),
        mesh_shape=mesh_shape,
        layout=layout,
        steps=steps,
        output_size=7,
        **more,
    ), x


@meshes.cached
def alone(name):
    return run(name)


def assert_same(many, single):
    tolerances.assert_close(many.outputs, single.outputs, tolerances.MESHES)
    tolerances.assert_close(many.loss, single.loss, tolerances.MESHES)
    for kind in ("losses", "sums", "gradients", "after"):
        mine, its = getattr(many, kind), getattr(single, kind)
        assert sorted(mine) == sorted(its)
        for key in its:
            tolerances.assert_close(mine[key], its[key], tolerances.MESHES, f"{kind} {key}")
    for key, before in single.weights.items():
        assert np.abs(single.after[key] - before).max() > LEARNING_RATE


@pytest.mark.parametrize("name", ["two", "one"])
def test_inputs_are_not_easy(name):
    single, x = alone(name)
    moe = LAYERS[name][0]()
    layer = ask_oracle.reference_of(moe, single.weights)
    expected = layer(
        ask_oracle.as_streams(x, True, depth=True),
        ask_oracle.as_streams(seeded.importance_of(DIMS), True, depth=False),
    )
    assert reference.smallest_margin(expected) > tolerances.TOP_K_MARGIN
    reference.assert_not_easy(expected, layer.specs, partial=True, padding=True)
    tolerances.assert_close(
        single.outputs, expected.outputs.reshape(single.outputs.shape), tolerances.ORACLE
    )


@pytest.mark.parametrize(
    "mesh", [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in MESHES]
)
def test_two_levels_on_a_mesh_equal_one_device(mesh):
    shape, layout = MESHES[mesh]
    many, _ = run("two", shape, layout)
    assert_same(many, alone("two")[0])
    if mesh == "2x2":
        whole = many.weights["wi/kernel"].size
        assert np.prod(many.slices["wi/kernel"]) == whole / 4


@pytest.mark.parametrize(
    "mesh",
    ["2x2", pytest.param("2x4", marks=pytest.mark.slow), pytest.param("8", marks=pytest.mark.slow)],
)
def test_random_policy_and_dropout_on_a_mesh_equal_one_device(mesh):
    many, _ = run("random", *MESHES[mesh])
    assert_same(many, alone("random")[0])
    assert np.abs(many.outputs - alone("two")[0].outputs).max() > 0.1


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ("cols:4", ONE_LEVEL),
        ("rows:1;cols:4", ONE_LEVEL + ";outer_batch:rows"),
        ("rows:2;cols:2", ONE_LEVEL + ";outer_batch:rows"),
        pytest.param("rows:2;cols:4", ONE_LEVEL + ";outer_batch:rows", marks=pytest.mark.slow),
        pytest.param("cols:8", ONE_LEVEL, marks=pytest.mark.slow),
        pytest.param("rows:2;cols:2", ONE_LEVEL + ";expert_hidden:rows", marks=pytest.mark.slow),
    ],
)
def test_one_level_on_a_mesh_equals_one_device(shape, layout):
    assert_same(run("one", shape, layout)[0], alone("one")[0])


@meshes.cached
def factored(mesh_shape="", layout=""):
    dims = (("outer_batch", 2), ("batch", 4), ("length", 5), ("d_model", 128))
    router = hmoe.TopKRouter(k=2, policy_train="all")
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(name="outer", num_experts=6, router=router, group_size=10, min_capacity=1),
            hmoe.Level(name="inner", num_experts=8, router=router, group_size=4, min_capacity=1),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=136),
    )
    kernels = [
        seeded.weights_of("outer_gating/kernel", (128, 6)) / 8,
        seeded.weights_of("inner_gating/kernel", (6, 128, 8)) / 8,
    ]
    return run_layer(
        moe,
        seeded.clear_tokens(dims, kernels),
        dims,
        mesh_shape=mesh_shape,
        layout=layout,
        values=lambda name, shape: seeded.weights_of(name, shape) / (8 if "gating" in name else 2),
        steps=3,
        output_size=130,
    )


def test_three_steps_of_factored_adafactor_on_a_mesh_equal_one_device():
    many = factored("rows:2;cols:2", meshes.TWO_AXES)
    single = factored()
    for key, weights in single.after.items():
        tolerances.assert_close(many.after[key], weights, tolerances.MESHES, key)
        assert np.abs(weights - single.weights[key]).max() > LEARNING_RATE
