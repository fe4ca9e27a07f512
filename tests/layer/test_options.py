"""Checks that every argument of every configurable class changes a number, a name or a variable."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from tests import graphs, meshes, seeded
from tests.run_layer import run_layer

pytestmark = pytest.mark.usefixtures("mesh_engine")

DIMS = (("outer_batch", 2), ("batch", 4), ("length", 12), ("d_model", 7))
NO_OUTER = {"dims": (("batch", 8), ("length", 12), ("d_model", 7))}
EVAL = {"train": False}
# One device would make three groups of eight tokens, two columns four of six.
FORCED = {
    "mesh_shape": "cols:2",
    "layout": "batch:cols",
    "dims": (("outer_batch", 2), ("batch", 4), ("length", 6), ("d_model", 7)),
}

LEVEL = dict(
    group_size=8,
    examples_per_group=None,
    capacity_factor_train=1.25,
    capacity_factor_eval=1.5,
    min_capacity=1,
    balance_loss_coef=0.1,
    balance_loss_over="group",
    balance_loss_mean_over="tokens",
    balance_loss_choices="first",
    z_loss_coef=0.1,
    second_place_loss=False,
)
ROUTER = dict(
    k=2,
    policy_train="random",
    policy_eval="threshold",
    threshold_train=0.8,
    threshold_eval=0.3,
    weight_norm=1.0,
    priority=False,
    retries=0,
    bias_update_rate=None,
    gate=None,
)
BASE = {
    "outer": dict(LEVEL, name="outer", num_experts=3),
    "inner": dict(LEVEL, name="inner", num_experts=5),
    "outer router": ROUTER,
    "inner router": ROUTER,
    "experts": dict(
        hidden_size=11, activation="relu", use_bias=False, dropout_rate=0.0, output_dropout_rate=0.0
    ),
    "shared": dict(
        hidden_size=13, activation="relu", use_bias=False, dropout_rate=0.0, output_dropout_rate=0.0
    ),
    "layer": dict(
        aux_loss_factor=1.0,
        router_z_loss_factor=1.0,
        exact_groups=False,
        inserted_outer_batch=None,
        metrics="brief",
        seed=0,
    ),
}

LEVEL_CHANGES = {
    "name": ("other", {}),
    "num_experts": (4, {}),
    "router": (hmoe.TopKRouter(k=1), {}),
    "group_size": (4, {}),
    "examples_per_group": (1.0, {}),
    "capacity_factor_train": (2.5, {}),
    "capacity_factor_eval": (0.8, EVAL),
    "min_capacity": (5, {}),
    "balance_loss_coef": (0.2, {}),
    "balance_loss_over": ("batch", {}),
    "balance_loss_mean_over": ("positions", {}),
    "balance_loss_choices": ("all", {}),
    "z_loss_coef": (0.2, {}),
    "second_place_loss": (True, {}),
}
ROUTER_CHANGES = {
    "k": (3, {}),
    "policy_train": ("all", {}),
    "policy_eval": ("none", EVAL),
    "threshold_train": (0.4, {}),
    "threshold_eval": (0.45, EVAL),
    "weight_norm": (2.0, {}),
    "priority": (True, {}),
    "retries": (1, {}),
    "bias_update_rate": (0.1, {}),
    "gate": (hmoe.Gate(use_bias=True), {}),
}
SHARED_CHANGES = {
    "hidden_size": (12, {}),
    "activation": (["gelu", "linear"], {}),
    "use_bias": (True, {}),
    "dropout_rate": (0.5, {}),
    "output_dropout_rate": (0.5, {}),
}
EXPERT_CHANGES = dict(SHARED_CHANGES, output_names=(["q_wo"], {}), separate=(True, {}))
LAYER_CHANGES = {
    "aux_loss_factor": (2.0, {}),
    "router_z_loss_factor": (2.0, {}),
    "exact_groups": (True, FORCED),
    "inserted_outer_batch": (2, NO_OUTER),
    "metrics": ("off", {}),
    "seed": (1, {}),
}
# Parts that are exchanged as a whole.
PARTS = {"levels": "one level less", "experts": "other experts", "shared_expert": "none"}

TABLE = [
    *[(part, name) for part in ("outer", "inner") for name in LEVEL_CHANGES],
    *[(f"{part} router", name) for part in ("outer", "inner") for name in ROUTER_CHANGES],
    *[("experts", name) for name in EXPERT_CHANGES],
    *[("shared", name) for name in SHARED_CHANGES],
    *[("layer", name) for name in LAYER_CHANGES],
    *[("whole", name) for name in PARTS],
]


# Its effect is an error, so it has a test of its own.
EXACT_GROUPS = ("layer", "exact_groups")


def change_of(part, name):
    changes = {
        "outer": LEVEL_CHANGES,
        "inner": LEVEL_CHANGES,
        "outer router": ROUTER_CHANGES,
        "inner router": ROUTER_CHANGES,
        "experts": EXPERT_CHANGES,
        "shared": SHARED_CHANGES,
        "layer": LAYER_CHANGES,
        "whole": {part: (None, {}) for part in PARTS},
    }
    return changes[part][name]


def build(part="", name="", value=None):
    settings = {key: dict(each) for key, each in BASE.items()}
    if part in settings:
        settings[part][name] = value
    levels = []
    for level in ("outer", "inner"):
        router = settings[level].pop("router", hmoe.TopKRouter(**settings[f"{level} router"]))
        levels.append(hmoe.Level(router=router, **settings[level]))
    experts = hmoe.FeedForwardExperts(**settings["experts"])
    shared = hmoe.SharedExpert(**settings["shared"])
    if name == "levels":
        levels = levels[:1]
    if name == "experts":
        experts = hmoe.FeedForwardExperts(hidden_size=17)
    if name == "shared_expert":
        shared = None
    return hmoe.HierarchicalMoE(
        levels=levels, experts=experts, shared_expert=shared, **settings["layer"]
    )


def result_of(moe, call):
    """Returns everything in which a change can be seen, as arrays by name."""
    call = dict({"train": True, "dims": DIMS}, **call)
    dims = call.pop("dims")
    run = run_layer(
        moe,
        seeded.tokens_of(dims),
        dims,
        gradients=False,
        importance=seeded.importance_of(dims),
        **call,
    )
    weights = {
        variable.name: np.zeros(variable.shape.to_integer_list)
        for variable in run.graph.all_variables
    }
    return {"outputs": run.outputs, "loss": np.array(run.loss), **run.losses, **run.sums, **weights}


@meshes.cached
def unchanged(call):
    return result_of(build(), dict(call))


def differs(one, other):
    if sorted(one) != sorted(other):
        return True
    return any(
        a.shape != other[name].shape or np.abs(a - other[name]).max() > 1e-4
        for name, a in one.items()
    )


@pytest.mark.parametrize(
    ("part", "name"),
    [pytest.param(*case, id="-".join(case)) for case in TABLE if case != EXACT_GROUPS],
)
def test_option_is_real(part, name):
    value, call = change_of(part, name)
    base = unchanged(tuple(call.items()))
    assert differs(result_of(build(part, name, value), call), base)


def test_exact_groups_turns_a_warning_into_an_error():
    value, call = change_of(*EXACT_GROUPS)
    assert unchanged(tuple(call.items()))
    with pytest.raises(ValueError, match=r"\(exact_groups = True\)$"):
        result_of(build(*EXACT_GROUPS, value), call)


def test_the_same_settings_give_the_same_numbers():
    assert not differs(result_of(build(), {}), unchanged(()))


# Settings before and after the change, and how the layer is called; by class and argument.
SAMPLING = {"selection_train": "sample"}
EXPLORING = {"explore_probability": 0.5}
ROUTER_TABLE = {
    hmoe.SwitchRouter: {
        "selection_train": ({}, SAMPLING, {}),
        "selection_eval": ({}, {"selection_eval": "sample"}, EVAL),
        "temperature": (SAMPLING, dict(SAMPLING, temperature=9.0), {}),
        "priority": ({}, {"priority": True}, {}),
        "retries": ({}, {"retries": 2}, {}),
        "bias_update_rate": ({}, {"bias_update_rate": 0.1}, {}),
        "gate": ({}, {"gate": hmoe.Gate(use_bias=True)}, {}),
    },
    hmoe.UniformRouter: {
        "k": ({}, {"k": 2}, {}),
        "weight_norm": ({"k": 2}, {"k": 2, "weight_norm": 1.0}, {}),
        "gate": ({}, {"gate": hmoe.Gate(use_bias=True)}, {}),
    },
    hmoe.ExpertChoiceRouter: {
        "softmax_over": ({}, {"softmax_over": "tokens"}, {}),
        "gate": ({}, {"gate": hmoe.Gate(use_bias=True)}, {}),
    },
    hmoe.Gate: {
        "function": ({}, {"function": "sigmoid"}, {}),
        "jitter": ({}, {"jitter": 0.5}, {}),
        "input_dropout": ({}, {"input_dropout": 0.5}, {}),
        "use_bias": ({}, {"use_bias": True}, {}),
        "word_embeddings": ({}, {"word_embeddings": "add"}, {}),
        "explore_probability": ({}, EXPLORING, {}),
        "explore_temperature": (EXPLORING, dict(EXPLORING, explore_temperature=9.0), {}),
    },
}
ROUTER_CASES = [
    (kind, name, depth)
    for kind, names in ROUTER_TABLE.items()
    for name in names
    for depth in (0, 1)
]


def layer_of(kind, settings, depth):
    router = kind(**settings)
    if kind is hmoe.Gate:
        router = hmoe.SwitchRouter(gate=router)
    routers = [hmoe.SwitchRouter(), hmoe.SwitchRouter()]
    routers[depth] = router
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(name=name, num_experts=experts, router=router, group_size=8, min_capacity=1)
            for name, experts, router in zip(("outer", "inner"), (3, 5), routers)
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11),
    )

    def call(inputs, output_dim, **more):
        return moe(inputs, output_dim, embeddings=inputs * 0.5, **more)

    return call


@meshes.cached
def plain_router(kind, settings, depth, call):
    return result_of(layer_of(kind, dict(settings), depth), dict(call))


@pytest.mark.parametrize(
    ("kind", "name", "depth"),
    ROUTER_CASES,
    ids=[f"{k.__name__}-{n}-{d}" for k, n, d in ROUTER_CASES],
)
def test_option_of_a_router_is_real(kind, name, depth):
    before, after, call = ROUTER_TABLE[kind][name]
    # A gate is tried in a switch router, so both start from the same layer.
    is_plain_switch = kind in (hmoe.Gate, hmoe.SwitchRouter) and not before
    base = (hmoe.SwitchRouter, (), 0) if is_plain_switch else (kind, tuple(before.items()), depth)
    assert differs(
        result_of(layer_of(kind, after, depth), call), plain_router(*base, tuple(call.items()))
    )


@pytest.mark.parametrize("kind", ROUTER_TABLE, ids=lambda kind: kind.__name__)
def test_the_table_has_every_argument_of_a_router(kind):
    # The first is tested with a decoder, the second below.
    assert set(inspect.signature(kind).parameters) - {"allow_in_decoder", "kernel_stddev"} == set(
        ROUTER_TABLE[kind]
    )


def test_kernels_start_from_a_truncated_normal():
    depth = (("batch", 4), ("length", 8), ("d_model", 70))
    call = layer_of(hmoe.Gate, {"kernel_stddev": 0.25}, 1)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        tf.train.create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = graphs.mtf_dims(depth)
        call(
            graphs.constant(mesh, seeded.tokens_of(depth), dims),
            mtf.Dimension("d_out", 5),
            train=True,
        )
        meshes.lower(mesh)
        session.run(tf.global_variables_initializer())
        kernel = session.run(mesh.graph.name_to_variable["inner_gating/kernel"].get_master())
    assert kernel.shape == (3, 70, 5)
    assert np.abs(kernel).max() <= 2 * 0.25
    # A normal distribution that is cut off at two deviations keeps 0.88 of its deviation.
    assert kernel.std() == pytest.approx(0.88 * 0.25, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        (hmoe.Level, ["outer", "inner"]),
        (hmoe.TopKRouter, ["outer router", "inner router"]),
        (hmoe.FeedForwardExperts, ["experts"]),
        (hmoe.SharedExpert, ["shared"]),
        (hmoe.HierarchicalMoE, ["layer", "whole"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_table_has_every_argument(kind, parts):
    # Engines give the same numbers; tests/dispatch/test_engines.py tells them apart.
    arguments = set(inspect.signature(kind).parameters) - {"engine"}
    for names in (
        [[n for p, n in TABLE if p == part] for part in parts]
        if kind is not hmoe.HierarchicalMoE
        else [[n for p, n in TABLE if p in parts]]
    ):
        assert arguments == set(names)


CALL_ARGUMENTS = {
    "inputs",
    "output_dim",
    "train",
    "importance",
    "embeddings",
    "mesh_shape",
    "layout",
    "variable_dtype",
    "num_microbatches",
    "drop_tokens",
    "causal",
    "kept_experts",  # tests/layer/test_kept_experts.py
    "replay",  # tests/layer/test_replay.py
}


@pytest.mark.parametrize(
    "call", [EVAL, {"num_microbatches": 3}, {"drop_tokens": False}], ids=lambda c: next(iter(c))
)
def test_argument_of_the_call_is_real(call):
    assert differs(result_of(build(), call), unchanged(()))


def test_causal_is_real():
    apart = {"drop_tokens": False}
    moe = layer_of(hmoe.UniformRouter, {}, 0)
    assert differs(result_of(moe, dict(apart, causal=True)), result_of(moe, apart))


def test_the_call_has_these_arguments():
    assert (
        set(inspect.signature(hmoe.HierarchicalMoE.__call__).parameters) - {"self"}
        == CALL_ARGUMENTS
    )


def test_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'capacity'"):
        hmoe.Level(name="outer", num_experts=2, router=hmoe.TopKRouter(), capacity=3)
