"""Configuration classes: frozen, keyword-only, compared by value, checked, and documented."""

from __future__ import annotations

import dataclasses
import fractions
import inspect

import numpy as np
import pytest

import hmoe
from hmoe import checks, config

LEVEL = hmoe.Level(name="outer", num_experts=3, router=hmoe.TopKRouter(k=2, retries=1))
EXPERTS = hmoe.FeedForwardExperts(hidden_size=11, activation=["gelu", "linear"])
OBJECTS = [
    LEVEL,
    EXPERTS,
    hmoe.Gate(jitter=0.1),
    hmoe.TopKRouter(k=3, gate=hmoe.Gate(function="sigmoid")),
    hmoe.SwitchRouter(temperature=2.0),
    hmoe.UniformRouter(k=2),
    hmoe.ExpertChoiceRouter(softmax_over="tokens"),
    hmoe.SharedExpert(hidden_size=5),
    hmoe.HierarchicalMoE(levels=[LEVEL], experts=EXPERTS, metrics="full"),
]


def named(value):
    return type(value).__name__


@pytest.mark.parametrize("made", OBJECTS, ids=named)
def test_repr_is_complete(made):
    again = eval(repr(made), {name: getattr(hmoe, name) for name in hmoe.__all__})
    assert again == made
    assert again is not made
    assert hash(again) == hash(made)


@pytest.mark.parametrize("made", OBJECTS, ids=named)
def test_is_frozen(made):
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, 1)


@pytest.mark.parametrize("made", OBJECTS, ids=named)
def test_takes_arguments_by_keyword_alone(made):
    parameters = inspect.signature(type(made)).parameters.values()
    assert {each.kind for each in parameters} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("made", OBJECTS, ids=named)
def test_help_describes_every_argument(made):
    text = inspect.getdoc(type(made))
    for name in inspect.signature(type(made)).parameters:
        assert f"\n  {name}: " in text


def test_objects_of_other_settings_differ():
    assert hmoe.TopKRouter(k=2) == hmoe.TopKRouter()
    assert hmoe.TopKRouter(k=2) != hmoe.TopKRouter(k=1)
    assert hmoe.SwitchRouter() != hmoe.TopKRouter(k=1, policy_train="all", weight_norm=None)
    assert dataclasses.replace(LEVEL, group_size=7) != LEVEL


def test_a_copy_with_other_settings_is_checked():
    with pytest.raises(ValueError, match="^level 'outer': group_size is 0;"):
        dataclasses.replace(LEVEL, group_size=0)


def test_numbers_of_numpy_become_those_of_python():
    level = dataclasses.replace(LEVEL, group_size=np.int64(8), z_loss_coef=np.float32(0.1))
    assert (type(level.group_size), type(level.z_loss_coef)) == (int, float)
    assert (level.group_size, level.z_loss_coef) == (8, 0.1)


def test_what_a_class_is_without_is_held_at_its_default():
    switch = hmoe.SwitchRouter()
    assert (switch.k, switch.policy_train, switch.weight_norm) == (1, "all", None)
    assert "policy_train" not in repr(switch)
    with pytest.raises(TypeError, match="unexpected keyword argument 'k'"):
        hmoe.SwitchRouter(k=2)


def test_fields_are_checked_before_what_they_mean_together():
    @config.configuration()
    class Range(config.Configuration):
        low: int = config.setting(doc="Low.", unit="x", source="hmoe", check=checks.positive_int)
        high: int = config.setting(
            9, doc="High.", unit="x", source="hmoe", check=checks.positive_int
        )

        def check_together(self):
            if self.high < self.low:
                raise ValueError(f"Range: high is {self.high}, below low = {self.low}")

    assert Range(low=2).high == 9
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'low'"):
        Range()
    with pytest.raises(ValueError, match="^Range: low is 'x'; it must be an integer"):
        Range(low="x")
    with pytest.raises(ValueError, match="^Range: high is 1, below low = 2$"):
        Range(low=2, high=1)


def test_another_default_of_a_users_subclass_stays_checked():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wide(hmoe.TopKRouter):
        k: int = 4

    assert Wide().k == 4
    assert [field.name for field in config.settings(Wide)] == [
        field.name for field in config.settings(hmoe.TopKRouter)
    ]
    with pytest.raises(ValueError, match="^Wide: k is -3; it must be an integer of at least 1$"):
        Wide(k=-3)


def test_fractions_are_numbers():
    assert dataclasses.replace(LEVEL, z_loss_coef=fractions.Fraction(1, 2)).z_loss_coef == 0.5
