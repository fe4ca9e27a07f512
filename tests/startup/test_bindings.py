"""Gin read as text, beside the configuration of the process."""

from __future__ import annotations

import pytest

from hmoe.startup import bindings
from hmoe.startup.bindings import BindingName

TEXT = """
import nowhere.at.all
# A comment.
d_model = 64
width = %d_model
scoped/size = 3
run.batch_size = 8
a.b.Layer.levels = [@outer/hmoe.Level(), %width, "x"]
outer/Layer.name = \\
    'outer'
"""


def test_bindings_and_macros_as_they_are_written() -> None:
    found = bindings.parse(TEXT)
    levels = BindingName("", "Layer", "levels")
    assert found.macros == {"d_model": "64", "width": "%d_model", "scoped/size": "3"}
    assert found.values == {
        BindingName("", "run", "batch_size"): "8",
        levels: "[@outer/Level(), %width, 'x']",
        BindingName("outer", "Layer", "name"): "'outer'",
    }
    assert [str(name) for name in found.values] == [
        "utils.run.batch_size",
        "Layer.levels",
        "outer/Layer.name",
    ]
    assert found.resolved(found.values[levels]) == "[@outer/Level(), 64, 'x']"
    assert list(found.macros_in(found.values[levels])) == ["width", "d_model"]


def test_macros_that_do_not_exist_or_never_end() -> None:
    found = bindings.parse("a = %b\nb = %a\nrun.x = [%a, %none]\n")
    (value,) = found.values.values()
    assert "?none" in found.resolved(value)
    assert set(found.macros_in(value)) == {"a", "b", "none"}


def test_text_that_is_not_gin() -> None:
    with pytest.raises(SyntaxError):
        bindings.parse("run.batch_size = \n")
