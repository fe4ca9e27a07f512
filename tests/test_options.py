"""Every argument of every configurable class changes a number or the graph."""
from __future__ import annotations

import functools
import inspect

import numpy as np
import pytest

import hmoe
from tests import helpers

DIMS = (("outer_batch", 2), ("batch", 4), ("length", 12), ("d_model", 7))
NO_OUTER = {"dims": (("batch", 8), ("length", 12), ("d_model", 7))}
EVAL = {"train": False}
# One device would make three groups of eight tokens, two columns four of six.
FORCED = {"mesh_shape": "cols:2", "layout": "batch:cols",
          "dims": (("outer_batch", 2), ("batch", 4), ("length", 6), ("d_model", 7))}

LEVEL = dict(group_size=8, capacity_factor_train=1.25, capacity_factor_eval=1.5, min_capacity=1,
             balance_loss_coef=0.1, z_loss_coef=0.1, second_place_loss=False)
BASE = {
    "outer": dict(LEVEL, name="outer", num_experts=3),
    "inner": dict(LEVEL, name="inner", num_experts=5),
    "outer router": dict(k=2, policy_train="random", policy_eval="threshold", threshold_train=0.8,
                         threshold_eval=0.3, weight_norm=1.0),
    "inner router": dict(k=2, policy_train="random", policy_eval="threshold", threshold_train=0.8,
                         threshold_eval=0.3, weight_norm=1.0),
    "experts": dict(hidden_size=11, activation="relu", use_bias=False, dropout_rate=0.0,
                    output_dropout_rate=0.0),
    "shared": dict(hidden_size=13, activation="relu", use_bias=False, dropout_rate=0.0,
                   output_dropout_rate=0.0),
    "layer": dict(aux_loss_factor=1.0, router_z_loss_factor=1.0, exact_groups=False,
                  inserted_outer_batch=None, metrics=True, seed=0),
}

LEVEL_CHANGES = {
    "name": ("other", {}), "num_experts": (4, {}), "router": (hmoe.TopKRouter(1), {}),
    "group_size": (4, {}), "capacity_factor_train": (2.5, {}), "capacity_factor_eval": (0.8, EVAL),
    "min_capacity": (5, {}), "balance_loss_coef": (0.2, {}), "z_loss_coef": (0.2, {}),
    "second_place_loss": (True, {})}
ROUTER_CHANGES = {
    "k": (3, {}), "policy_train": ("all", {}), "policy_eval": ("none", EVAL),
    "threshold_train": (0.4, {}), "threshold_eval": (0.45, EVAL), "weight_norm": (2.0, {})}
SHARED_CHANGES = {
    "hidden_size": (12, {}), "activation": (["gelu", "linear"], {}), "use_bias": (True, {}),
    "dropout_rate": (0.5, {}), "output_dropout_rate": (0.5, {})}
EXPERT_CHANGES = dict(SHARED_CHANGES, output_names=(["q_wo"], {}), separate=(True, {}))
LAYER_CHANGES = {
    "aux_loss_factor": (2.0, {}), "router_z_loss_factor": (2.0, {}),
    "exact_groups": (True, FORCED), "inserted_outer_batch": (2, NO_OUTER),
    "metrics": (False, {}), "seed": (1, {})}
# Given by position or as a whole.
PARTS = {"levels": "one level less", "experts": "other experts", "shared_expert": "none"}

TABLE = [
    *[(part, name) for part in ("outer", "inner") for name in LEVEL_CHANGES],
    *[(f"{part} router", name) for part in ("outer", "inner") for name in ROUTER_CHANGES],
    *[("experts", name) for name in EXPERT_CHANGES],
    *[("shared", name) for name in SHARED_CHANGES],
    *[("layer", name) for name in LAYER_CHANGES],
    *[("whole", name) for name in PARTS]]


def change_of(part, name):
    changes = {"outer": LEVEL_CHANGES, "inner": LEVEL_CHANGES, "outer router": ROUTER_CHANGES,
               "inner router": ROUTER_CHANGES, "experts": EXPERT_CHANGES, "shared": SHARED_CHANGES,
               "layer": LAYER_CHANGES, "whole": {part: (None, {}) for part in PARTS}}
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
    return hmoe.HierarchicalMoE(levels, experts, shared_expert=shared, **settings["layer"])


def result_of(moe, call):
    """Everything that a change can be seen in, as arrays by name."""
    call = dict({"train": True, "dims": DIMS}, **call)
    dims = call.pop("dims")
    try:
        run = helpers.run_layer(moe, helpers.tokens_of(dims), dims, gradients=False,
                                importance=helpers.importance_of(dims), **call)
    except ValueError as error:
        return {str(error): np.zeros(())}
    weights = {name: np.zeros(value.shape) for name, value in run.weights.items()}
    return {"outputs": run.outputs, "loss": np.array(run.loss), **run.losses, **run.sums, **weights}


@functools.cache
def unchanged(call):
    return result_of(build(), dict(call))


def differs(one, other):
    if sorted(one) != sorted(other):
        return True
    return any(a.shape != other[name].shape or np.abs(a - other[name]).max() > 1e-4
               for name, a in one.items())


@pytest.mark.parametrize(("part", "name"), TABLE, ids=[f"{p}-{n}" for p, n in TABLE])
def test_option_is_real(part, name):
    value, call = change_of(part, name)
    base = unchanged(tuple(call.items()))
    assert differs(result_of(build(part, name, value), call), base)


def test_the_same_settings_give_the_same_numbers():
    assert not differs(result_of(build(), {}), unchanged(()))


@pytest.mark.parametrize(("kind", "parts"), [
    (hmoe.Level, ["outer", "inner"]), (hmoe.TopKRouter, ["outer router", "inner router"]),
    (hmoe.FeedForwardExperts, ["experts"]), (hmoe.SharedExpert, ["shared"]),
    (hmoe.HierarchicalMoE, ["layer", "whole"])], ids=lambda x: getattr(x, "__name__", ""))
def test_the_table_has_every_argument(kind, parts):
    arguments = set(inspect.signature(kind).parameters)
    for names in ([[n for p, n in TABLE if p == part] for part in parts]
                  if kind is not hmoe.HierarchicalMoE else [[n for p, n in TABLE if p in parts]]):
        assert arguments == set(names)


CALL_ARGUMENTS = {"inputs", "output_dim", "train", "importance", "mesh_shape", "layout",
                  "variable_dtype", "num_microbatches", "drop_tokens"}


@pytest.mark.parametrize("call", [
    EVAL, {"num_microbatches": 3}, {"drop_tokens": False}], ids=lambda c: next(iter(c)))
def test_argument_of_the_call_is_real(call):
    assert differs(result_of(build(), call), unchanged(()))
    assert set(inspect.signature(hmoe.HierarchicalMoE.__call__).parameters) - {
        "self"} == CALL_ARGUMENTS


def test_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'capacity'"):
        hmoe.Level("outer", num_experts=2, router=hmoe.TopKRouter(), capacity=3)
