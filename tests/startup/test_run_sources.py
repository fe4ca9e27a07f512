"""Which gin files a command reads, above all beside a user's own data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hmoe.startup import run_sources, saved_run
from hmoe.startup.request import PlanFlags, Request
from tests.storage import fake_checkpoints as fake

RUN = "mesh_tensorflow.transformer.utils.run"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.gin").write_text("d_model = 64\n", encoding="utf-8")


def training(*files: str, data: str | None = None) -> Request:
    return Request(command="train", model_dir="m", gin_file=files, data=data)


@pytest.mark.parametrize(
    ("request_", "files"),
    [
        (training(), ("runs/default.gin",)),
        (training(data="d.tsv"), ("runs/default.gin",)),
        (training("mine.gin"), ("mine.gin",)),
        (training("mine.gin", data="d.tsv"), ("runs/default.gin", "mine.gin")),
        (
            training("models/hierarchical_base.gin", "layouts/v3-32.gin", data="d.tsv"),
            ("runs/default.gin", "models/hierarchical_base.gin", "layouts/v3-32.gin"),
        ),
        (training("runs/pretrain_text_cpu.gin", data="d.txt"), ("runs/pretrain_text_cpu.gin",)),
        (
            training(
                "models/dense_tiny.gin", "layouts/one_device.gin", "tasks/_seqio.gin", data="d.tsv"
            ),
            ("models/dense_tiny.gin", "layouts/one_device.gin", "tasks/_seqio.gin"),
        ),
    ],
    ids=["default", "data", "gin", "data_gin", "data_parts", "data_run", "data_own_run"],
)
def test_files_of_a_new_run(request_: Request, files: tuple[str, ...]) -> None:
    assert run_sources.of_new_run(request_) == files


def planned(*files: str, data: str | None = None, reads_model_dir: bool = False) -> Request:
    plan = PlanFlags(reads_model_dir=reads_model_dir)
    return Request(command="plan", model_dir="m", gin_file=files, data=data, plan=plan)


@pytest.mark.parametrize("reads_model_dir", [False, True])
def test_a_plan_reads_what_training_would(reads_model_dir: bool) -> None:
    """Gin files and data come before the folder of a trained run, and the default job last."""
    Path("m").mkdir()
    Path("m/config.gin").write_text("x = 1\n", encoding="utf-8")
    path = Path("m/config.gin").absolute()
    saved = run_sources.Sources((str(path),), saved=True)
    default = run_sources.Sources(("runs/default.gin",))
    wanted = saved if reads_model_dir else default
    assert run_sources.of(planned(reads_model_dir=reads_model_dir)) == wanted
    for request in (planned("mine.gin"), planned("mine.gin", data="d.tsv"), planned(data="d.tsv")):
        flags = dataclasses.replace(request, plan=PlanFlags(reads_model_dir=reads_model_dir))
        as_training = dataclasses.replace(request, command="train", plan=None)
        assert run_sources.of(flags) == run_sources.of(as_training)
        assert not run_sources.begins_default_job(flags)


def test_files_beside_data_change_the_default_run() -> None:
    reading = run_sources.read(training("mine.gin", data="d.tsv"))
    assert reading is not None
    assert reading.literal("Unitransformer.d_model") == 64
    assert reading.literal(f"{RUN}.batch_size") == 16
    assert reading.bound(f"{RUN}.train_dataset_fn") is not None


def test_nothing_of_the_default_run_is_left_in_a_whole_run() -> None:
    reading = run_sources.read(training("runs/pretrain_text_cpu.gin", data="d.txt"))
    assert reading is not None
    assert not [each for each in reading.bindings if "FormatSettings" in each.name]
    assert "decay_fraction" not in reading.macros


def test_a_saved_run_comes_before_the_default_one() -> None:
    Path("m").mkdir()
    request = training()
    assert run_sources.of(request) == run_sources.Sources(("runs/default.gin",))
    Path("m/operative_config.gin").write_text("x = 1\n", encoding="utf-8")
    path = Path("m/operative_config.gin").absolute()
    assert run_sources.of(request) == run_sources.Sources((str(path),), saved=True)
    reading = run_sources.read(request)
    assert reading is not None
    assert not reading.macros["x"].place.own
    Path("m/operative_config.gin").write_text("x = = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="m/operative_config.gin is damaged "):
        run_sources.read(request)


def test_a_copy_takes_the_place_of_a_lost_configuration() -> None:
    Path("m").mkdir()
    text = f"x = 1\n{saved_run.END}\n"
    Path("m/run.json").write_text(json.dumps({"config": text.splitlines()}), encoding="utf-8")
    assert run_sources.of(training()) == run_sources.Sources((), saved=True, text=text)
    reading = run_sources.read(training())
    assert reading is not None
    assert reading.literal(f"{RUN}.batch_size") is None
    assert str(reading.macros["x"].place) == "run.json:1"
    assert not reading.macros["x"].place.own


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_folder_with_checkpoints_does_not_get_the_default_job(command: str) -> None:
    fake.save(Path("m"), 4)
    request = dataclasses.replace(training(), command=command)
    with pytest.raises(ValueError) as error:
        run_sources.of(request)
    assert str(error.value) == (
        "model_dir 'm' has no config.gin or operative_config.gin, which describe the model; name "
        "its gin files with --gin_file"
    )
    # Named files, data and beginning anew are no such case.
    assert run_sources.of(training("mine.gin")) == run_sources.Sources(("mine.gin",))
    anew = dataclasses.replace(training(), overwrite=True)
    assert run_sources.of(anew) == run_sources.Sources(("runs/default.gin",))
    assert run_sources.begins_default_job(anew)
