"""Small files are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hmoe.storage import atomic_write


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")
    atomic_write.write_text(str(path), "neu: ä\n")
    assert path.read_bytes() == "neu: ä\n".encode()
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")

    def fail(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        atomic_write.write_text(str(path), "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]
