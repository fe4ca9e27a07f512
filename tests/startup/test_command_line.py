"""Recommended commands work as they are printed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from hmoe.startup import command_line


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command in an environment that is not on the path; the current folder is above it."""
    path = tmp_path / "my envs" / "bin" / "hmoe"
    path.parent.mkdir(parents=True)
    path.write_text("")
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(path)])
    return path


def test_the_path_of_the_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = command_line.command("predict", "a b", model_dir="runs/x")
    assert line == "'my envs/bin/hmoe' predict --model_dir=runs/x 'a b'"
    monkeypatch.setattr(sys, "argv", ["my envs/bin/hmoe"])  # as it was typed
    assert command_line.program() == "'my envs/bin/hmoe'"
    (program.parent / "elsewhere").mkdir()
    monkeypatch.chdir(program.parent / "elsewhere")
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert command_line.program() == f"'{program}'"
    monkeypatch.chdir(program.parent)
    assert command_line.program() == "./hmoe"
    monkeypatch.setenv("PATH", f"{program.parent}:/bin")
    assert command_line.program() == "hmoe"


def test_run_as_a_module_it_is_just_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/hmoe/cli/main.py"])
    assert command_line.program() == "hmoe"


@pytest.mark.parametrize("folder", ["a b", "a[1]", "-x", "it's", "$HOME", "*", "ä", "a\nb"])
def test_odd_names_reach_the_command(folder: str) -> None:
    line = command_line.command("predict", model_dir=folder)
    assert shlex.split(line)[1:] == ["predict", f"--model_dir={folder}"]


def test_another_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/none/python")
    assert command_line.beside_program("tensorboard") is None
    (program.parent / "tensorboard").write_text("")
    assert command_line.beside_program("tensorboard") is None  # no program
    (program.parent / "tensorboard").chmod(0o755)
    assert command_line.beside_program("tensorboard") == "'my envs/bin/tensorboard'"
