"""Modules that a saved configuration imports are named before they run."""

from __future__ import annotations

import json
from pathlib import Path

from hmoe.startup import model_imports, saved_run
from hmoe.startup.request import Request

OURS = "import hmoe.t5\nimport mesh_tensorflow.optimize as m\nimport t5.models\n"


def announcement(folder: Path, **fields: object) -> str | None:
    fields = {"command": "predict", "model_dir": str(folder), **fields}
    return model_imports.announcement(Request(**fields))


def test_our_own_modules_are_not_worth_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text(OURS)
    (tmp_path / "run.json").write_text('{"module_import": ["t5.data.mixtures"]}')
    assert announcement(tmp_path) is None


def test_foreign_modules_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text(
        OURS + "import evil.code\n  from more import evil\nx = 1\n"
    )
    (tmp_path / "run.json").write_text('{"module_import": ["my_tasks"]}')
    assert announcement(tmp_path) == (
        f"The configuration in {tmp_path} imports evil.code, more.evil, my_tasks"
    )
    assert announcement(tmp_path, gin_file=("other.gin",)) is None
    assert announcement(tmp_path, module_import=("mine",), gin_param=("import my_own",)) == (
        f"The configuration in {tmp_path} imports evil.code, more.evil"
    )


def test_modules_that_included_files_import_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text(
        f"from __gin__ import dynamic_registration\ninclude '{tmp_path}/more.gin'\n"
    )
    (tmp_path / "more.gin").write_text("import evil.code\n")
    assert announcement(tmp_path) == f"The configuration in {tmp_path} imports evil.code"


def test_an_address_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text(
        "import evil\naddress = 'grpc://there:1'\nhmoe.Session.master = %address\n"
    )
    assert announcement(tmp_path) == (
        f"The configuration in {tmp_path} imports evil and connects to 'grpc://there:1'"
    )
    (tmp_path / "config.gin").write_text("hmoe.Session.master = 'grpc://there:1'\n")
    assert announcement(tmp_path) == (
        f"The configuration in {tmp_path} connects to 'grpc://there:1'"
    )
    for own in ("''", "'grpc://here:1'"):
        assert announcement(tmp_path, gin_param=(f"hmoe.Session.master = {own}",)) is None
    assert announcement(tmp_path, command="export") is None


def test_the_copy_that_takes_the_place_of_a_configuration_is_read(tmp_path: Path) -> None:
    copy = ["import evil.code", saved_run.END]
    (tmp_path / "run.json").write_text(json.dumps({"config": copy}))
    assert announcement(tmp_path) == f"The configuration in {tmp_path} imports evil.code"
