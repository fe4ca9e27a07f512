"""The default job is announced, and a mistyped folder does not begin it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.startup import new_run
from hmoe.startup.request import Request


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("default", "exp_17", "finetuned"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "model.ckpt-4.index").write_text("")
        (tmp_path / "runs" / name / "config.gin").write_text("")
    (tmp_path / "runs" / "notarun").mkdir()


def announcement(folder: str, **fields: object) -> str | None:
    return new_run.announcement(Request(command="train", model_dir=folder, **fields))


@pytest.mark.parametrize(
    "folder", ["runs/new", "runs/exp_18", "runs/finetunes", "runs/finetuned2", "runs/notarum"]
)
def test_new_folders(folder: str) -> None:
    """Names of a series are no mistakes, nor are those like a folder without a run."""
    assert announcement(folder) == (
        f"Beginning the default job (runs/default.gin) in {folder}, a new folder"
    )


def test_the_default_folder_is_not_mistyped(tmp_path: Path) -> None:
    (tmp_path / "runs" / "default").rename(tmp_path / "runs" / "defaults")
    (tmp_path / "runs" / "exp_17").rename(tmp_path / "runs" / "defalt")
    assert announcement("runs/default") == (
        "Beginning the default job (runs/default.gin) in runs/default, a new folder"
    )


def test_a_folder_that_is_there() -> None:
    assert announcement("runs/notarun") == (
        "Beginning the default job (runs/default.gin) in runs/notarun"
    )
    assert announcement("runs/default") is None
    # The run of the configuration that is there begins anew.
    assert announcement("runs/default", overwrite=True) is None
    Path("runs/default/config.gin").unlink()
    assert announcement("runs/default", overwrite=True) == (
        "Beginning the default job (runs/default.gin) in runs/default"
    )
    with pytest.raises(ValueError, match="has no config.gin or operative_config.gin, which "):
        announcement("runs/default")


@pytest.mark.parametrize(
    ("folder", "meant"), [("runs/defualt", "runs/default"), ("runs/fintuned/", "runs/finetuned")]
)
def test_a_mistyped_folder(folder: str, meant: str) -> None:
    with pytest.raises(ValueError) as error:
        announcement(folder)
    assert str(error.value) == (
        f"model_dir '{folder}' does not exist, but '{meant}' beside it holds a run; did you mean "
        "that? To begin the default job in a folder of this name, make the folder first"
    )


@pytest.mark.parametrize("fields", [{"gin_file": ("a.gin",)}, {"data": "a.tsv"}])
def test_other_jobs_are_not_announced(fields: dict) -> None:
    assert announcement("runs/defualt", **fields) is None
    assert announcement("gs://bucket/runs") is None
