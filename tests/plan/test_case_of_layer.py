"""Layers read into the plain numbers of their formulas."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given

import hmoe
from hmoe.plan.case_of_layer import case_of
from hmoe.plan.layer_case import LayerCase
from tests.plan.layer_cases import layer_cases, layer_of

# What a layer knows by itself; the rest comes with its call.
OF_LAYER = ("levels", "experts", "shared_expert", "engine", "metrics")


def call_of(case: LayerCase) -> dict[str, object]:
    names = [field.name for field in dataclasses.fields(case) if field.name not in OF_LAYER]
    return {name: getattr(case, name) for name in names}


@given(layer_cases())
def test_a_layer_is_read_as_it_was_described(case: LayerCase):
    assert case_of(layer_of(case), **call_of(case)) == case


CALL = {
    "d_model": 5,
    "output_dim": 7,
    "outer_batch": 1,
    "batch": 4,
    "length": 3,
}


def layer(**fields: object) -> hmoe.HierarchicalMoE:
    router = fields.pop("router", hmoe.SwitchRouter())
    how = {"experts": hmoe.FeedForwardExperts(hidden_size=3), **fields}
    level = hmoe.Level(name="outer", num_experts=2, router=router)
    return hmoe.HierarchicalMoE(levels=[level], **how)


@pytest.mark.parametrize(("on_tpu", "engine"), [(False, "index"), (True, "einsum")])
def test_the_engine_follows_the_mesh(on_tpu: bool, engine: str):
    assert case_of(layer(), train=True, on_tpu=on_tpu, **CALL).engine == engine


@pytest.mark.parametrize(("train", "factor"), [(True, 1.25), (False, 2.0)])
def test_the_capacity_is_that_of_the_mode(train: bool, factor: float):
    found = case_of(layer(), train=train, on_tpu=False, **CALL)
    assert found.levels[0].capacity_factor == factor


class OwnRouter(hmoe.SwitchRouter):
    pass


class OwnExperts(hmoe.FeedForwardExperts):
    pass


class OwnShared(hmoe.SharedExpert):
    pass


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"router": OwnRouter()},
            "level 'outer': there is no formula for OwnRouter; use a router of hmoe, or count the"
            " graph instead",
            id="router",
        ),
        pytest.param(
            {"router": hmoe.SwitchRouter(gate=hmoe.Gate(word_embeddings="add"))},
            "level 'outer': there is no formula for word_embeddings = 'add'; set it to None, or"
            " count the graph instead",
            id="embeddings",
        ),
        pytest.param(
            {"experts": OwnExperts(hidden_size=3)},
            "there is no formula for experts of OwnExperts; use hmoe.FeedForwardExperts, or count"
            " the graph instead",
            id="experts",
        ),
        pytest.param(
            {"experts": hmoe.FeedForwardExperts(hidden_size=3, separate=True)},
            "there is no formula for experts with separate = True; set it to False, or count the"
            " graph instead",
            id="separate",
        ),
        pytest.param(
            {"shared_expert": OwnShared(hidden_size=3)},
            "there is no formula for a shared expert of OwnShared; use hmoe.SharedExpert, or count"
            " the graph instead",
            id="shared",
        ),
    ],
)
def test_refuses_parts_that_no_formula_covers(fields: dict[str, object], message: str):
    with pytest.raises(ValueError) as error:
        case_of(layer(**fields), train=True, on_tpu=False, **CALL)
    assert str(error.value) == message
