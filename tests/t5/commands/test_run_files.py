"""The files that describe a run are what it began with, whenever they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.startup import saved_run
from hmoe.startup.request import Request
from hmoe.t5.commands import run_files

TEXT = "batch_size = 8\n\nrun.batch_size = %batch_size\n"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "m"
    request = Request(command="train", model_dir=str(folder), data="/a/pairs.tsv")
    run_files.write(str(folder), request, TEXT)
    text = f"{TEXT}\n{saved_run.END}\n"
    assert (folder / "config.gin").read_text(encoding="utf-8") == text
    expected = saved_run.SavedRun(str(folder / "config.gin"), {"data": "/a/pairs.tsv"}, text)
    assert saved_run.read(str(folder)) == expected
    assert sorted(path.name for path in folder.iterdir()) == ["config.gin", "run.json"]
    # What it was read from is no other configuration.
    run_files.write(str(folder), request, text)
    assert (folder / "config.gin").read_text(encoding="utf-8") == text


def test_the_vocabulary_is_that_of_the_start(tmp_path: Path) -> None:
    """It may change, be deleted or be moved aside with an old run before the first checkpoint."""
    given, folder = tmp_path / "v.model", tmp_path / "m"
    given.write_bytes(b"\x00of the start")
    request = Request(command="train", model_dir=str(folder), vocabulary=str(given))
    described = run_files.describe(request, TEXT)
    given.unlink()
    described.write(str(folder))
    assert (folder / "vocabulary.model").read_bytes() == b"\x00of the start"
    saved = saved_run.read(str(folder))
    assert saved is not None
    assert saved.flags == {"vocabulary": str(folder / "vocabulary.model")}


def test_versions_that_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal ones go on; those of steps that are trained again are forgotten."""
    request = Request(command="train", model_dir=str(tmp_path))
    told = []
    for version, step in (("1", 0), ("1", 5), ("2", 7), ("3", 9), ("2", 8)):
        monkeypatch.setattr(run_files, "installed_versions", lambda own=version: {"hmoe": own})
        versions = run_files.with_present_versions(saved_run.versions(str(tmp_path)), step)
        run_files.write(str(tmp_path), request, TEXT, versions)
        told.append(
            [(each["from_step"], each["hmoe"]) for each in saved_run.versions(str(tmp_path))]
        )
    assert told == [
        [(0, "1")],
        [(0, "1")],
        [(0, "1"), (7, "2")],
        [(0, "1"), (7, "2"), (9, "3")],
        [(0, "1"), (7, "2")],
    ]
    saved = saved_run.read(str(tmp_path))
    assert saved is not None
    assert saved.flags == {}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "7", '{"versions": 7}', '{"versions": [7]}', '{"versions": [{}]}']
)
def test_a_run_that_tells_no_versions(tmp_path: Path, text: str) -> None:
    assert saved_run.versions(str(tmp_path)) == []
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    assert saved_run.versions(str(tmp_path)) == []
