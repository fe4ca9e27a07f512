"""Checks of a configuration beside the folder of a trained model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hmoe.startup import configuration, run_sources, saved_flags
from hmoe.startup.request import PlanFlags, Request
from tests.storage import fake_checkpoints


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    for step in (200, 600):
        fake_checkpoints.save(Path("runs/mine"), step)
    Path("runs/mine/config.gin").write_text("include 'runs/tiny.gin'\n", encoding="utf-8")


def check(command: str, model_dir: str, *lines: str) -> list[str]:
    return configuration.check(
        Request(command=command, model_dir=model_dir, gin_param=lines, strict=True)
    )


def test_a_checkpoint_that_is_not_there() -> None:
    step = "utils.run.eval_checkpoint_step = {}"
    with pytest.raises(ValueError) as error:
        check("predict", "runs/mine", step.format(500))
    assert str(error.value) == (
        "model_dir 'runs/mine' has no checkpoint of step 500; it has steps 200, 600. Choose one "
        "that it has (utils.run.eval_checkpoint_step), or -1 for the newest"
    )
    with pytest.raises(ValueError, match="has no checkpoint of step 7; it has steps 200, 600"):
        check("eval", "runs/mine", step.format("[200, 7]"))
    for known in (200, 600, -1, "'all'", "[200, 600]"):
        assert check("predict", "runs/mine", step.format(known)) == []


def plan(*lines: str, files: tuple[str, ...] = ("runs/tiny.gin",), **flags: Any) -> list[str]:
    request = Request(
        command="plan", model_dir="m", gin_file=files, gin_param=lines, plan=PlanFlags(**flags)
    )
    return configuration.check(request)


def test_a_plan_needs_neither_data_nor_a_task() -> None:
    parts = ("models/hierarchical_base.gin", "layouts/v3-32.gin")
    assert plan(files=parts) == []
    assert plan(files=("runs/pretrain_base_v3-256.gin",)) == []
    assert plan(files=("runs/finetune_cldr.gin", "layouts/one_device.gin")) == []
    with pytest.raises(ValueError, match="nothing defines the macro MIXTURE_NAM;"):
        plan("utils.run.batch_size = %MIXTURE_NAM", files=parts)


def test_a_plan_for_tpus_needs_no_devices() -> None:
    mesh = "utils.run.mesh_shape = 'rows:2;cols:3'"
    assert plan(mesh, platform="tpu") == []
    for platform in (None, "cpu", "gpu"):
        with pytest.raises(ValueError, match="has 4 devices, but the mesh 'rows:2;cols:3'"):
            plan(mesh, platform=platform)


def test_a_plan_reads_no_checkpoint() -> None:
    folder = Path("runs/mine")
    request = Request(
        command="plan",
        model_dir=str(folder),
        gin_param=("utils.run.eval_checkpoint_step = 500",),
        plan=PlanFlags(reads_model_dir=True),
    )
    assert configuration.check(request) == []


@pytest.mark.parametrize("command", ["train", "predict"])
def test_saved_modules_define_what_the_configuration_uses(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = Path("runs/mine")
    with (folder / "config.gin").open("a", encoding="utf-8") as file:
        file.write("utils.run.train_steps = %STEPS\n")
    with pytest.raises(ValueError, match="nothing defines the macro STEPS"):
        check(command, "runs/mine")
    Path("user_code.py").write_text("with gin.config_scope('mine'): pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(os.getcwd())
    (folder / "run.json").write_text('{"module_import": ["user_code"]}', encoding="utf-8")
    # The module may define the constant, and opens the scope.
    assert check(command, "runs/mine", "mine/hmoe.Level.group_size = 8") == []


def test_files_of_saved_folders_are_found() -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/more.gin").write_text("train_steps = 3\n", encoding="utf-8")
    Path("runs/mine/config.gin").write_text(
        "include 'runs/tiny.gin'\ninclude 'more.gin'\n", encoding="utf-8"
    )
    Path("runs/mine/run.json").write_text('{"gin_location_prefix": ["elsewhere"]}')
    assert run_sources.read(saved_flags.fill_in(Request(command="eval", model_dir="runs/mine")))


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"module_import": 3}', "[" * 99999])
def test_damaged_flags_are_named(text: str) -> None:
    Path("runs/mine/run.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^runs/mine/run\.json is damaged \("):
        saved_flags.fill_in(Request(command="eval", model_dir="runs/mine"))


def test_a_run_that_goes_on_needs_no_checkpoint_to_begin_from() -> None:
    gone = "utils.run.init_checkpoint = 'gone/model.ckpt-1'"
    assert check("train", "runs/mine", gone) == []
    with pytest.raises(ValueError, match="there is no checkpoint of that name"):
        check("train", "runs/new", gone)
    assert (
        check("train", "runs/new", "utils.run.init_checkpoint = 'runs/mine/model.ckpt-600'") == []
    )


def test_devices_of_this_process() -> None:
    device = "/job:localhost/replica:0/task:0/device:CPU:0"
    assert check("train", "runs/mine", f"utils.run.mesh_devices = {[device] * 4}") == []


def test_own_bindings_alone_are_warned_of() -> None:
    with Path("runs/mine/config.gin").open("a", encoding="utf-8") as file:
        file.write("train_stepz = 3\n")
    assert check("eval", "runs/mine") == []
    with pytest.raises(ValueError) as error:
        check("eval", "runs/mine", "batch_sise = 3")
    assert str(error.value) == (
        "--gin_param 'batch_sise = 3': nothing reads the macro batch_sise; did you mean "
        "'batch_size'?\n--strict makes this an error"
    )
