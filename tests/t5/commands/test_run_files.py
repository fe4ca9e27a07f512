"""The files that describe a run are what it began with, whenever they are written."""

from __future__ import annotations

from pathlib import Path

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
