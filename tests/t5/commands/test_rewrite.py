"""`hmoe split` and `hmoe merge` that fail, and are given again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.startup import path_checks, saved_run
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import rewrite, run_files
from hmoe.t5.sessions import checkpoints

VALUES = {"w": np.ones([2, 3], np.float32)}


@pytest.fixture
def request_to_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setattr(rewrite.configure, "configure_trained", lambda request, console: request)
    monkeypatch.setattr(rewrite.split_merge, "split_experts", dict)
    checkpoints.write(str(tmp_path / "model"), 4, VALUES)
    return Request(
        command="split", model_dir=str(tmp_path / "model"), output_dir=str(tmp_path / "new")
    )


@pytest.mark.parametrize("name", ["write", "END"])
def test_one_that_fails_leaves_nothing(
    request_to_split: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before the configuration is written, or after it; then the same command again."""
    new = tmp_path / "new"
    write = run_files.write

    def fail(model_dir: str, request: Request, **more: Any) -> None:
        if name == "END":
            write(model_dir, request, **more)
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(run_files, "write", fail)
        with pytest.raises(OSError, match="the disk is full"):
            rewrite.split(request_to_split, Console())
    assert list(new.iterdir()) == []
    succeed(request_to_split, new)


def test_one_that_was_killed(
    request_to_split: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    child = os.fork()
    if not child:
        write = run_files.write
        monkeypatch.setattr(run_files, "write", lambda *a, **more: [write(*a, **more), os._exit(9)])
        try:
            rewrite.split(request_to_split, Console())
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = {path.name for path in new.iterdir()}
    assert left == {"config.gin", "run.json", "model.ckpt-4.unfinished"}
    path_checks.check_new_folder(str(new))
    succeed(request_to_split, new)


def succeed(request: Request, new: Path) -> None:
    rewrite.split(request, Console())
    assert checkpoints.latest(str(new)) == f"{new}/model.ckpt-4"
    assert saved_run.read(str(new)) is not None
    with pytest.raises(ValueError, match="exists and is not empty"):
        path_checks.check_new_folder(str(new))


def test_a_configuration_of_the_users_is_not_taken_for_one_that_was_left(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text("d_model = 8\n")
    with pytest.raises(ValueError, match="exists and is not empty"):
        path_checks.check_new_folder(str(tmp_path))
