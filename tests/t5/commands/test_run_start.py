"""How training starts in a folder with a run, as far as no graph is built."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest

import hmoe.t5  # noqa: F401  (registers what gin names)
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import commands, gin_config, run_files, run_start  # noqa: F401
from hmoe.t5.sessions import checkpoints


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


def prepare(folder: Path, **fields: Any) -> tuple[run_start.RunStart, str]:
    """The start of a run, and what it says."""
    gin.clear_config()
    out = io.StringIO()
    request = Request(command="train", model_dir=str(folder), **fields)
    start = run_start.prepare(request, Console(out=out))
    return start, out.getvalue()


TINY: dict[str, Any] = {"gin_file": ("runs/tiny.gin",)}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with the files of the tiny run and a checkpoint of step 2."""
    start, said = prepare(tmp_path, **TINY)
    assert (said, list(tmp_path.iterdir())) == ("", [])
    start.keep()
    checkpoints.write(str(tmp_path), 2, {"w": np.zeros(2, np.float32)})
    return tmp_path


def test_the_same_files_again_are_a_resume(trained: Path) -> None:
    assert prepare(trained, **TINY)[1] == ""
    assert prepare(trained)[1] == f"Taking up the run in {trained} with its saved configuration\n"


@pytest.mark.parametrize("macro", [True, False])
def test_train_steps_are_kept(trained: Path, macro: bool) -> None:
    fixed = () if macro else ("utils.run.train_steps = 4",)
    start, said = prepare(trained, **TINY, train_steps=7, gin_param=fixed)
    assert f"  {'' if macro else 'utils.run.'}train_steps: 4 -> 7 (steps: " in said
    assert gin.query_parameter("run.train_steps") == 7 or macro
    start.keep()
    line = "train_steps = 7" if macro else "run.train_steps = 7"
    assert f"\n{line}\n" in (trained / "config.gin").read_text(encoding="utf-8")


def test_train_steps_behind_a_constant(trained: Path) -> None:
    gin.constant("test_run_start.STEPS", 4)
    prepare(
        trained,
        **TINY,
        train_steps=7,
        gin_param=("utils.run.train_steps = %test_run_start.STEPS",),
    )
    assert gin_config.value("run.train_steps") == 7


def test_an_edited_configuration_is_compared_as_well(trained: Path) -> None:
    path = trained / "config.gin"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("batch_size = 8", "batch_size = 16"), encoding="utf-8")
    with pytest.raises(ValueError, match="\n  batch_size: 8 -> 16 "):
        prepare(trained)
    said = prepare(trained, force=True)[1]
    assert f"{path} was edited since training wrote it, and is used as it is now\n" in said
    assert "  batch_size: 8 -> 16 (batch size: " in said


def test_a_run_that_begins_anew_is_compared_with_nothing(trained: Path) -> None:
    other = ("batch_size = 16",)
    assert prepare(trained, **TINY, gin_param=other, overwrite=True)[1] == ""
    with pytest.raises(ValueError, match="with --force$"):
        prepare(trained, **TINY, gin_param=other)


def test_a_damaged_configuration_may_be_named_anew(trained: Path) -> None:
    path = trained / "config.gin"
    path.write_text("run.batch_size\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        prepare(trained)
    said = prepare(trained, **TINY)[1]
    assert said.startswith(f"Warning: {path} is damaged (")
    assert said.endswith("): what this run changes of the one in the folder is not known\n")


def test_data_that_a_resume_repeats_is_said(trained: Path) -> None:
    parameters = ("utils.run.skip_seen_data = False",)
    assert (
        "Warning: the data begins anew"
        in (prepare(trained, **TINY, gin_param=parameters, force=True)[1])
    )
    parameters = ("mesh_train_dataset_fn.seed = None",)
    assert (
        "Warning: the data comes in another order"
        in (prepare(trained, **TINY, gin_param=parameters, force=True)[1])
    )


def test_a_new_run_that_failed_is_forgotten(tmp_path: Path, trained: Path) -> None:
    start, _ = prepare(tmp_path / "new", **TINY)
    start.keep()
    (tmp_path / "new" / "operative_config.gin").touch()
    assert run_files.read(str(tmp_path / "new")) is not None
    start.forget()
    assert list((tmp_path / "new").iterdir()) == []
    # What was there before, or has a checkpoint, stays.
    prepare(trained, **TINY)[0].forget()
    assert run_files.read(str(trained)) is not None
