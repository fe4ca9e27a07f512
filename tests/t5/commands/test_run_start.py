"""How training starts in a folder with a run, as far as no graph is built."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
from mesh_tensorflow.transformer import utils
from t5.models import mesh_transformer

import hmoe.t5  # noqa: F401  (registers what gin names)
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import commands, gin_config, run_files, run_start  # noqa: F401
from hmoe.t5.sessions import checkpoints, session_settings


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


def pairs(folder: Path) -> Path:
    path = folder / "pairs.tsv"
    path.write_text("".join(f"a{i}\tb\n" for i in range(20)), encoding="utf-8")
    return path


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
    (trained / "run.json").unlink()
    for anew in (False, True):
        with pytest.raises(ValueError, match="is damaged"):
            prepare(trained, overwrite=anew)
    for described in (TINY, {"data": str(pairs(trained))}):
        said = prepare(trained, **described)[1]
        assert f"Warning: {path} is damaged (" in said
        assert "): what this run changes of the one in the folder is not known\n" in said
        assert "Warning" not in prepare(trained, **described, overwrite=True)[1]


def test_a_copy_takes_the_place_of_a_damaged_configuration(trained: Path) -> None:
    path = trained / "config.gin"
    path.write_bytes(path.read_bytes()[:900])
    said = prepare(trained)[1].splitlines()
    assert said[0] == f"Taking up the run in {trained} with its saved configuration"
    assert said[1].startswith(f"{path} is damaged (")
    assert said[1].endswith("): the copy of it in run.json is used instead")
    assert gin.query_parameter("run.batch_size").scoped_configurable_fn() == 8
    assert prepare(trained, **TINY)[1] == ""


def test_a_model_without_a_configuration_is_not_trained_as_the_default_job(trained: Path) -> None:
    for name in ("config.gin", "run.json"):
        (trained / name).unlink()
    with pytest.raises(ValueError) as error:
        prepare(trained)
    assert str(error.value) == (
        f"model_dir '{trained}' has no config.gin or operative_config.gin, which describe the "
        "model; name its gin files with --gin_file"
    )
    assert prepare(trained, **TINY)[1] == ""


def test_beginning_anew_without_gin_files_takes_the_saved_configuration(trained: Path) -> None:
    start, said = prepare(trained, overwrite=True, train_steps=7)
    assert said == f"Beginning the run in {trained} anew with its saved configuration\n"
    assert gin.query_parameter("run.batch_size").scoped_configurable_fn() == 8
    (trained / "config.gin").unlink()
    (trained / "run.json").unlink()
    assert prepare(trained, overwrite=True)[1] == ""
    assert "FormatSettings" in gin.config_str()


def test_an_operative_configuration_is_resumed_with_its_own_gin_files(trained: Path) -> None:
    """As T5 leaves it: with the defaults of what was used, and without what was not."""
    prepare(trained, **TINY)
    bound = gin.config_str()
    utils.get_variable_dtype()
    session_settings.SessionSettings()
    mesh_transformer.get_vocabulary()
    used = gin.operative_config_str()
    assert "Session.largest_weight" in used
    assert "Session.largest_weight" not in bound
    for name in ("config.gin", "run.json"):
        (trained / name).unlink()
    (trained / "operative_config.gin").write_text(used, encoding="utf-8")
    assert prepare(trained, **TINY)[1] == ""
    said = prepare(trained, **TINY, gin_param=("hmoe.Session.log_every_steps = 9",))[1]
    assert "  Session.log_every_steps: " in said


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
