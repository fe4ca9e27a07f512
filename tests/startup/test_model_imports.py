"""Modules that a saved configuration imports are named before they run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hmoe.startup import model_imports, saved_run
from hmoe.startup.request import Request

OURS = "import hmoe.t5\nimport mesh_tensorflow.optimize as m\nimport t5.models\n"


def announcement(folder: Path, **fields: object) -> str | None:
    return model_imports.announcement(Request(command="predict", model_dir=str(folder), **fields))


def test_our_own_modules_are_not_worth_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text(OURS)
    (tmp_path / "run.json").write_text('{"module_import": ["t5.data.mixtures"]}')
    assert announcement(tmp_path) is None
    assert announcement(tmp_path / "none") is None


def test_foreign_modules_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text(
        OURS + "import evil.code\n  from more import evil\nx = 1\n"
    )
    (tmp_path / "run.json").write_text('{"module_import": ["my_tasks"]}')
    assert announcement(tmp_path) == (
        f"The configuration in {tmp_path} imports evil.code, more, my_tasks"
    )
    assert announcement(tmp_path, gin_file=("other.gin",)) is None


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"module_import": 3}'])
def test_damaged_files_are_left_to_their_readers(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "config.gin").write_bytes(b"\xff\xfe")
    assert announcement(tmp_path) is None


def test_the_copy_that_takes_the_place_of_a_configuration_is_read(tmp_path: Path) -> None:
    copy = ["import evil.code", saved_run.END]
    (tmp_path / "run.json").write_text(json.dumps({"config": copy}))
    assert announcement(tmp_path) == f"The configuration in {tmp_path} imports evil.code"
