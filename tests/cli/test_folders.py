"""Folders of models that a command must refuse before TensorFlow is loaded, unchanged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hmoe.cli import launch, main
from hmoe.startup import run_lock
from hmoe.startup.request import Request
from tests.storage import fake_checkpoints as fake


@pytest.fixture(autouse=True)
def never_loads_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object) -> None:
        pytest.fail("it went on")

    monkeypatch.setattr(launch, "_run_logged", run)


def answer(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main.main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    return error


COMMANDS = {
    "train": [],
    "eval": [],
    "predict": ["text"],
    "score": [f"--input_file={__file__}", f"--target_file={__file__}"],
    "export": [],
    "split": ["--output_dir=new"],
    "merge": ["--output_dir=new"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_only_damaged_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture, command: str
) -> None:
    fake.save(tmp_path, 2)
    fake.save(tmp_path, 4)
    (tmp_path / "config.gin").write_text("include 'runs/tiny.gin'\n", encoding="utf-8")
    (tmp_path / "model.ckpt-2.index").unlink()
    (tmp_path / "model.ckpt-4.manifest.json").write_text("{")
    before = fake.contents(tmp_path)
    said = answer(capsys, command, f"--model_dir={tmp_path}", *COMMANDS[command])
    assert said == (
        f"hmoe: error: no checkpoint in model_dir '{tmp_path}' is whole (model.ckpt-4: "
        "model.ckpt-4.manifest.json is damaged and cannot be read; model.ckpt-2: "
        "model.ckpt-2.index is missing); nothing was changed. Restore these files from a copy, "
        "name another --model_dir, or train anew there with hmoe train --overwrite, which moves "
        "the old files aside\n"
    )
    assert fake.contents(tmp_path) == before


def test_a_checkpoint_file_that_points_elsewhere_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fake.save(tmp_path / "other", 1)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "checkpoint").write_text('model_checkpoint_path: "../other/model.ckpt-1"\n')
    said = answer(capsys, "predict", f"--model_dir={tmp_path}/m", "text")
    assert said.startswith(f"hmoe: error: model_dir '{tmp_path}/m' holds no checkpoint; train ")


def test_the_remedy_quotes_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = answer(capsys, "predict", f"--model_dir={tmp_path}/a b", "text")
    assert said == (
        f"hmoe: error: model_dir '{tmp_path}/a b' does not exist; train first (hmoe train "
        f"--model_dir='{tmp_path}/a b'), or name the folder of a trained model with --model_dir\n"
    )


@pytest.mark.parametrize(
    "arguments", [["train", "--model_dir={m}"], ["split", "--model_dir={o}", "--output_dir={m}"]]
)
def test_a_folder_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str]
) -> None:
    model, other = tmp_path / "model", tmp_path / "other"
    fake.save(other, 1)
    (other / "config.gin").write_text("", encoding="utf-8")
    with run_lock.held(Request(command="train", model_dir=str(model)), pytest.fail):
        before = fake.contents(model)
        said = answer(capsys, *[word.format(m=model, o=other) for word in arguments])
        assert fake.contents(model) == before
    assert said.startswith(f"hmoe: error: '{model}' is in use by process {os.getpid()} on ")


def test_a_notice_comes_before_a_foreign_models_address_is_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fake.save(tmp_path, 1)
    (tmp_path / "config.gin").write_text(
        "include 'runs/tiny.gin'\nhmoe.Session.master = 'grpc://127.0.0.1:1'\n"
    )
    assert answer(capsys, "predict", f"--model_dir={tmp_path}", "a") == (
        f"The configuration in {tmp_path} connects to 'grpc://127.0.0.1:1'\n"
        f"hmoe: error: {tmp_path}/config.gin:2: hmoe.Session.master is 'grpc://127.0.0.1:1', where "
        "nobody answers (Connection refused); start a tf.train.Server there, or use '' for this "
        "process\n"
    )


def test_an_export_needs_no_server(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that servers trained is exported when they are gone."""
    fake.save(tmp_path, 1)
    (tmp_path / "config.gin").write_text(
        "include 'runs/tiny.gin'\nhmoe.Session.master = 'grpc://127.0.0.1:1'\n"
    )
    monkeypatch.setattr(launch, "_run_logged", lambda *arguments: 0)
    assert main.main(["export", f"--model_dir={tmp_path}"]) == 0
    assert capsys.readouterr() == ("", "")
