"""A model is checked against mesh and layout rules before a graph is built."""

from __future__ import annotations

import types
from typing import Any

import gin
import pytest

import hmoe.t5  # noqa: F401
from hmoe.compat.stack import mtf
from hmoe.t5 import configurables
from hmoe.t5.layers import layout_check

LEVELS = """
hmoe.MoELayer.moe = @hmoe.HierarchicalMoE()
hmoe.HierarchicalMoE.levels = [@outer/hmoe.Level(), @inner/hmoe.Level()]
hmoe.HierarchicalMoE.experts = @hmoe.FeedForwardExperts()
hmoe.FeedForwardExperts.hidden_size = 3
hmoe.Level.router = @hmoe.TopKRouter()
outer/hmoe.Level.name = "outer"
outer/hmoe.Level.num_experts = 6
inner/hmoe.Level.name = "inner"
inner/hmoe.Level.num_experts = 4
"""
MESH = "rows:2;cols:3"
RULES = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"


@pytest.fixture(autouse=True)
def _clean():
    gin.clear_config()
    yield
    gin.clear_config()


def model(*layers: Any) -> Any:
    """An encoder and a decoder of these layers, as much of them as is looked at."""
    stacks = [
        types.SimpleNamespace(
            autoregressive=number == 1, layer_stack=types.SimpleNamespace(layers=list(layers))
        )
        for number in range(2)
    ]
    return types.SimpleNamespace(encoder=stacks[0], decoder=stacks[1])


def check(rules: Any) -> Any:
    attention = object()
    layers = [attention, configurables.MoELayer(), configurables.MoELayer()]
    return layout_check.check(model(*layers), MESH, rules)


def test_a_dimension_of_a_users_own_is_warned_of() -> None:
    gin.parse_config(LEVELS)
    layers, rules = model(configurables.MoELayer()), f"my_dim:rows;{RULES}"
    with pytest.raises(ValueError, match="no tensor has a dimension 'my_dim'"):
        layout_check.check(layers, MESH, rules)
    assert layout_check.check(layers, MESH, rules, closed=False) == [
        "layout rule 'my_dim:rows': neither T5 nor hmoe has a dimension 'my_dim', only code of "
        "your own could"
    ]


@pytest.mark.parametrize("read", [str, mtf.convert_to_layout_rules], ids=["text", "rules"])
def test_t5s_rule_for_ensembles_is_no_mistake(read: Any) -> None:
    gin.parse_config(LEVELS)
    assert check(read(f"ensemble:ensemble;{RULES}")) == []


def test_a_dimension_left_whole_is_said() -> None:
    gin.parse_config(LEVELS)
    assert check(RULES.replace(";expert_y:rows", "")) == [
        "dimension 'expert_y' is not split, although the mesh has 'rows' of 2, 'cols' of 3: every"
        " device holds all of it. Add a layout rule such as 'expert_y:rows' if that is not meant"
    ]


def test_more_choices_than_experts_are_said() -> None:
    gin.parse_config(LEVELS)
    gin.parse_config("outer/hmoe.Level.router = @outer/hmoe.TopKRouter()")
    gin.parse_config("outer/hmoe.TopKRouter.k = 9\nhmoe.TopKRouter.retries = 3")
    assert check(RULES) == [
        "level 'outer': k is 9, but it has 6 experts; every token chooses all of them",
        "level 'inner': retries is 3, but beside the 2 that a token chooses the level has only 2",
    ]


def test_an_unknown_axis_is_refused() -> None:
    gin.parse_config(LEVELS)
    with pytest.raises(ValueError) as error:
        check("batch:columns")
    assert str(error.value) == (
        "layout rule 'batch:columns': the mesh has no axis 'columns'; it has 'rows' of 2, 'cols' of"
        " 3. Name one of these, or remove the rule"
    )


def test_experts_that_devices_cannot_share_are_refused() -> None:
    gin.parse_config([LEVELS, "inner/hmoe.Level.num_experts = 5"])
    with pytest.raises(ValueError) as error:
        check(RULES)
    assert str(error.value) == (
        "level 'inner': expert_y has 5 experts, which the 2 devices of mesh axis 'rows' cannot"
        " share; use a multiple of 2 or another layout"
    )


def test_a_dense_model_may_take_a_layout_for_experts() -> None:
    assert layout_check.check(model(object()), MESH, "experts:nowhere") == []


def test_a_decoder_refuses_experts_that_choose() -> None:
    gin.parse_config([LEVELS, "hmoe.Level.router = @hmoe.ExpertChoiceRouter()"])
    layer = configurables.MoELayer()
    encoder = types.SimpleNamespace(
        autoregressive=False, layer_stack=types.SimpleNamespace(_layers=[layer])
    )
    assert layout_check.check(encoder, MESH, RULES) == []
    with pytest.raises(ValueError, match="^level 'outer': ExpertChoiceRouter.* in a decoder"):
        layout_check.check(model(layer), MESH, RULES)


def test_a_decoder_takes_experts_that_choose_among_the_encoders_tokens() -> None:
    gin.parse_config([LEVELS, "hmoe.Level.router = @hmoe.ExpertChoiceRouter()"])
    for computation in ("kv", "q"):
        layer = configurables.ExpertsEncDecAttention(
            configurables.HierarchicalMoE(), expert_computation=computation
        )
        if computation == "kv":
            assert layout_check.check(model(layer), MESH, RULES) == []
        else:
            with pytest.raises(ValueError, match="in a decoder"):
                layout_check.check(model(layer), MESH, RULES)
