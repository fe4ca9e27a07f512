"""The checks of values before TensorFlow is loaded are those of the classes themselves."""

from __future__ import annotations

import importlib
import inspect

import gin
import pytest

import hmoe.t5  # noqa: F401
from hmoe import config
from hmoe.startup.gin_checks import arguments
from hmoe.t5 import configurables
from hmoe.t5.data.cldr_formats import FormatSettings
from hmoe.t5.data.cldr_names import NameSettings
from hmoe.t5.data.training_data import TrainingData
from hmoe.t5.sessions.session_settings import SessionSettings

SETTINGS = {
    "Session": SessionSettings,
    "TrainingData": TrainingData,
    "FormatSettings": FormatSettings,
    "NameSettings": NameSettings,
}
VALUES = (
    *(None, True, -1, 0, 1, 2, 7, 0.0, 0.5, 1.0, 1.5, -0.5, "", "x", "softmax", "sigmoid"),
    *("group", "batch", "tokens", "first", "argmax", "experts", "all", "random", "brief", "auto"),
    *("float32", "positions", "sample"),
)


def accepted(check: object, value: object) -> bool:
    try:
        check("where", "field", value)  # type: ignore[operator]
    except ValueError:
        return False
    return True


def own() -> list[tuple[str, str]]:
    return [(name, field) for name, each in arguments.OWN_CHECKS.items() for field in each]


@pytest.mark.parametrize(("name", "field"), own())
def test_own_classes(name: str, field: str) -> None:
    cls = SETTINGS[name] if name in SETTINGS else getattr(configurables, name)
    theirs = config.described(cls, field).check
    ours = arguments.OWN_CHECKS[name][field]
    # Those of lists check more than the type.
    if ours is arguments.words:
        assert not accepted(ours, "de")
        return
    for value in VALUES:
        assert accepted(ours, value) == accepted(theirs, value), value


@pytest.mark.parametrize("full_name", arguments.CHECKS)
def test_defaults_of_t5_are_accepted(full_name: str) -> None:
    path, _, argument = full_name.rpartition(".")
    module, _, name = path.rpartition(".")
    function = getattr(importlib.import_module(module), name)
    function = function.__init__ if inspect.isclass(function) else function
    default = inspect.signature(inspect.unwrap(function)).parameters[argument].default
    if default not in (inspect.Parameter.empty, gin.REQUIRED) and not callable(default):
        arguments.CHECKS[full_name]("where", argument, default)
