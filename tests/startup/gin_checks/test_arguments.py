"""The checks of values before TensorFlow is loaded are those of the classes themselves."""

from __future__ import annotations

import inspect

import pytest
from mesh_tensorflow.transformer import utils

import hmoe.t5  # noqa: F401
from hmoe import config
from hmoe.startup.gin_checks import arguments
from hmoe.t5 import configurables
from hmoe.t5.data.cldr_formats import FormatSettings
from hmoe.t5.data.cldr_names import NameSettings
from hmoe.t5.sessions.session_settings import SessionSettings

SETTINGS = {
    "Session": SessionSettings,
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


def test_arguments_of_run_exist() -> None:
    known = inspect.signature(inspect.unwrap(utils.run)).parameters
    prefix = "mesh_tensorflow.transformer.utils.run."
    ours = [each.removeprefix(prefix) for each in arguments.CHECKS if each.startswith(prefix)]
    assert ours
    assert set(ours) <= set(known)
