"""Gin's statements, parsed without knowing what they name."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hmoe.startup.gin_statements import Binding, Import, Include, Macro, Place, Reference, parse

TEXT = """\
# A comment.
train_steps = 3
outer/hmoe.Level.router = @outer/hmoe.TopKRouter()
f.x = [%train_steps, {"a": (1, @g)}]
import my_module
from my_package import tasks
from __gin__ import dynamic_registration
include 'models/a.gin'
inner/hmoe.Level:
  group_size = 8
"""


def at(line: int) -> Place:
    return Place("f.gin", line)


def test_all_kinds_of_statements():
    assert list(parse(TEXT, "f.gin")) == [
        Binding(at(2), "", "train_steps", "", 3),
        Binding(
            at(3), "outer", "hmoe.Level", "router", Reference("outer", "hmoe.TopKRouter", True)
        ),
        Binding(at(4), "", "f", "x", [Macro("train_steps"), {"a": (1, Reference("", "g", False))}]),
        Import(at(5), "my_module"),
        Import(at(6), "my_package.tasks"),
        Include(at(8), "models/a.gin"),
        Binding(at(10), "inner", "hmoe.Level", "group_size", 8),
    ]


def test_names_and_symbols_are_printed_as_gin_writes_them():
    bindings = [each for each in parse(TEXT, "f.gin") if isinstance(each, Binding)]
    assert [each.name for each in bindings] == [
        "train_steps",
        "outer/hmoe.Level.router",
        "f.x",
        "inner/hmoe.Level.group_size",
    ]
    assert repr(bindings[1].value) == "@outer/hmoe.TopKRouter()"
    assert repr(bindings[2].value) == "[%train_steps, {'a': (1, @g)}]"


def test_places_in_messages():
    assert str(Place("f.gin", 3)) == "f.gin:3"
    assert str(Place("--gin_param 'x'")) == "--gin_param 'x'"


PIECES = st.sampled_from(
    [
        *"=@%()[]{},:/.#'\"\\$-\n\t \0\ufeff",
        "a",
        "b.c",
        "1",
        "1e9",
        "include",
        "import",
        "from",
        "  ",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=20).map("".join) | st.text(max_size=30))
@example("a = {[1]: 2}")
@example("a = 'x\n")
@example("a = [")
@example("%a = 1")
@example("a = " + "9" * 5000)
@example("a = " + "[" * 60)
def test_any_text_is_statements_or_one_error_with_its_place(text):
    try:
        list(parse(text, "f.gin"))
    except ValueError as error:
        assert str(error).startswith("f.gin:")  # noqa: PT017


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_line_ends(end):
    (binding,) = parse(f"x = 1{end}", "f.gin")
    assert binding.value == 1
