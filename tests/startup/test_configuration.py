"""Checks of a configuration beside the folder of a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.startup import configuration
from hmoe.startup.request import Request
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
    for known in (200, 600, -1, "'all'", "[200, 600]"):
        assert check("predict", "runs/mine", step.format(known)) == []


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
