"""What a command takes from gin and from a saved run, and what it says if there is neither."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gin
import numpy as np
import pytest

import hmoe.t5  # noqa: F401  (registers what gin names)
from hmoe.startup import saved_run
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, run_files
from hmoe.t5.sessions import checkpoints


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.mark.parametrize("command", configure.MODES)
def test_mode_by_default_and_by_gin(command: str) -> None:
    modes = configure.MODES[command]
    assert configure.mode_of(command) == modes[0]
    gin.bind_parameter("run.mode", modes[-1])
    assert configure.mode_of(command) == modes[-1]


def test_mode_and_data_behind_macros() -> None:
    gin.parse_config(
        "run.mode = %mine\nmine = 'perplexity_eval'\nrun.dataset_split = %split\nsplit = 'train'\n"
        "run.eval_checkpoint_step = %step\nstep = None\n"
    )
    assert configure.mode_of("eval") == "perplexity_eval"
    assert configure.held_out_data() == {"dataset_split": "validation"}
    assert configure.newest_checkpoint() == {"eval_checkpoint_step": -1}


def test_mode_of_training_is_of_no_matter_to_other_commands() -> None:
    gin.bind_parameter("run.mode", "train")
    assert configure.mode_of("eval") == "eval"


def test_mode_of_another_command() -> None:
    gin.bind_parameter("run.mode", "infer")
    with pytest.raises(ValueError) as error:
        configure.mode_of("eval")
    assert str(error.value) == (
        "gin: utils.run.mode is 'infer', which belongs to hmoe predict, not to hmoe eval; run hmoe "
        "predict, or remove the binding"
    )


def test_checkpoint_and_data_that_gin_does_not_name() -> None:
    assert configure.newest_checkpoint() == {"eval_checkpoint_step": -1}
    assert configure.held_out_data() == {"dataset_split": "validation"}
    gin.bind_parameter("run.eval_checkpoint_step", 0)
    gin.bind_parameter("run.dataset_split", "test")
    assert configure.newest_checkpoint() == {}
    assert configure.held_out_data() == {}


@pytest.mark.parametrize("skip", [True, False])
def test_no_module_runs_before_all_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: bool
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("early_one", "early_two"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "config.gin").write_text("import early_one\ninclude 'none.gin'\n")
    request = Request(
        command="predict",
        model_dir=str(tmp_path),
        module_import=("early_two",),
        skip_all_gin_unknowns=skip,
    )
    with pytest.raises(ValueError, match=r"config.gin:2: gin file 'none.gin' not found"):
        configure.configure_trained(request, Console())
    assert not {"early_one", "early_two"}.intersection(sys.modules)


def test_a_checkpoint_without_a_configuration(tmp_path: Path) -> None:
    checkpoints.write(str(tmp_path), 3, {"w": np.zeros(2, np.float32)})
    with pytest.raises(ValueError) as error:
        configure.configure_trained(Request(command="eval", model_dir=str(tmp_path)), Console())
    assert str(error.value) == (
        f"model_dir '{tmp_path}' has no config.gin or operative_config.gin, which describe the "
        "model; name its gin files with --gin_file"
    )


def test_saved_flags_fill_in_what_is_not_given(tmp_path: Path) -> None:
    trained = Request(
        command="train",
        model_dir=str(tmp_path),
        data="/a/pairs.tsv",
        skip_bad_lines=True,
        module_import=("mine", "yours"),
        gin_location_prefix=("p",),
        gin_param=("a = 1",),
        train_steps=4,
        replay="/a/trace.parquet",
    )
    run_files.write(str(tmp_path), trained)
    saved = saved_run.read(str(tmp_path))
    assert saved is not None
    assert saved.configuration == str(tmp_path / "config.gin")
    given = Request(command="eval", model_dir=str(tmp_path), gin_location_prefix=("q",))
    filled = saved_run.fill_in(given, saved)
    assert filled == Request(
        command="eval",
        model_dir=str(tmp_path),
        data="/a/pairs.tsv",
        skip_bad_lines=True,
        module_import=("mine", "yours"),
        gin_location_prefix=("q",),
    )
    assert given.data is None
    hash(filled)
    # A resume replays the same trace; the model by itself is evaluated without it.
    resumed = saved_run.fill_in(Request(command="train", model_dir=str(tmp_path)), saved)
    assert resumed.replay == "/a/trace.parquet"


def test_a_run_that_was_saved_without_flags(tmp_path: Path) -> None:
    assert saved_run.read(str(tmp_path)) is None
    (tmp_path / "operative_config.gin").write_text("")
    saved = saved_run.read(str(tmp_path))
    assert saved == saved_run.SavedRun(str(tmp_path / "operative_config.gin"), {}, is_whole=False)
    (tmp_path / "run.json").write_text(json.dumps({"vocabulary": "v", "unknown": 1}))
    (tmp_path / "config.gin").write_text("")
    saved = saved_run.read(str(tmp_path))
    assert saved is not None
    assert saved.configuration == str(tmp_path / "config.gin")
    given = Request(command="eval", model_dir=str(tmp_path))
    assert saved_run.fill_in(given, saved).vocabulary == "v"
