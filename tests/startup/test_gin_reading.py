"""What a configuration of several files binds in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.startup import gin_reading

RUN = "mesh_tensorflow.transformer.utils.run"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str, *lines: str) -> gin_reading.Reading:
    Path("f.gin").write_text(text, encoding="utf-8")
    return gin_reading.read(["f.gin"], lines)


def test_later_statements_win_under_any_name_of_the_same_argument():
    Path("g.gin").write_text("utils.run.train_steps = 2\n", encoding="utf-8")
    reading = read("run.train_steps = 1\ninclude 'g.gin'\n")
    assert reading.literal(f"{RUN}.train_steps") == 2
    assert [each.place.source for each in reading.effective] == ["g.gin"]
    reading = read("include 'g.gin'\nrun.train_steps = 1\n", f"{RUN}.train_steps = 3")
    assert reading.literal(f"{RUN}.train_steps") == 3
    assert len(reading.effective) == 1


def test_scopes_are_arguments_of_their_own():
    reading = read("a/f.x = 1\nf.x = 2\n")
    assert len(reading.effective) == 2
    assert reading.bound("f.x").value == 2


def test_macros_lead_to_where_the_value_stands():
    reading = read("f.x = %a\na = %b\n\nb = 3\n", "c = 4")
    found = reading.resolve(reading.bound("f.x"))
    assert (str(found.place), found.name, found.value) == ("f.gin:4", "b", 3)
    assert reading.literal("f.x") == 3
    assert reading.literal("f.y", 7) == 7


def test_symbols_are_no_literals():
    reading = read("f.x = @g()\nf.y = [1, %nothing]\n")
    assert reading.literal("f.x") is None
    assert reading.literal("f.y", 5) == 5


def test_shipped_files_are_not_a_users_own():
    reading = read("include 'runs/tiny.gin'\nx = 1\n", "y = 2")
    own = [each.name for each in reading.bindings if each.place.own]
    assert own == ["x", "y"]
    assert len(reading.bindings) > 50


def test_files_in_packages_are_found_as_gin_finds_them():
    reading = read("include 'mesh_tensorflow/transformer/gin/defaults.gin'\n")
    assert "num_layers" in reading.macros
    assert not reading.macros["num_layers"].place.own


def test_macros_in_full():
    reading = read("a/b/macro.value = 3\nc/gin.macro.value = 4\nf.x = %a/b\n")
    assert {name: each.value for name, each in reading.macros.items()} == {"a/b": 3, "c": 4}
    assert reading.literal("f.x") == 3


def test_files_on_other_machines_are_left_out():
    reading = gin_reading.read(["gs://bucket/a.gin"], ["x = 1"])
    assert not reading.whole
    assert list(reading.macros) == ["x"]
