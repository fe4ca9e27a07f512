"""What training does to the folder that it takes up, and what it refuses before it does anything."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.startup.errors import RunFailedError
from hmoe.storage import checkpoint_saving
from hmoe.t5.sessions import checkpoints
from hmoe.t5.sessions.mesh_saver import MeshSaver
from hmoe.t5.sessions.training_folder import Beginning
from tests.storage import fake_checkpoints as fake
from tests.t5 import tiny

DATA = "model.ckpt-4.data-00001-of-00002"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("trained")
    estimator = tiny.make(folder, save_checkpoints_steps=2)
    estimator.train(tiny.input_fn(tiny.ids(32)), max_steps=4)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "model"))


def train(folder: Path, max_steps: int, lines: list[str] | None = None, **settings: object) -> None:
    estimator = tiny.make(folder, lines=lines, **settings)
    estimator.train(tiny.input_fn(tiny.ids(64)), max_steps=max_steps)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def refusal(folder: Path, **settings: object) -> str:
    """The error of a training, which changes nothing."""
    before = fake.contents(folder)
    with pytest.raises(ValueError) as error:
        train(folder, 6, **settings)
    assert fake.contents(folder) == before
    return str(error.value)


def test_the_newest_is_moved_aside_and_trained_again(copy: Path) -> None:
    flip(copy / DATA)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    lines: list[str] = []
    train(copy, 4, lines)
    assert [line for line in lines if "damaged" in line] == [
        f"model.ckpt-4 is damaged ({DATA} is damaged: its checksum is not that of when it was "
        f"saved): moved to {copy}/damaged",
        f"{copy}/metrics.jsonl: removed 1 damaged of 5 lines (line 5)",
    ]
    assert [line["step"] for line in tiny.curves(copy)] == [1, 2, 3, 4]
    assert checkpoints.latest(str(copy)) == f"{copy}/model.ckpt-4"


def test_damage_without_a_manifest_is_moved_aside_too(copy: Path) -> None:
    for path in copy.glob("*.manifest.json"):
        path.unlink()
    flip(copy / DATA)
    lines: list[str] = []
    train(copy, 5, lines)
    assert f"Resuming from {copy}/model.ckpt-2" in lines
    (line,) = [line for line in lines if "damaged" in line]
    assert line.startswith(f"model.ckpt-4 is damaged (TensorBundle at {copy}/model.ckpt-4 ")
    assert line.endswith(f": moved to {copy}/damaged")
    assert (copy / "damaged" / DATA).exists()


class LoseTheSession(tf.train.SessionRunHook):
    """Fails once after a step, as a server that is started anew lets a session fail."""

    def __init__(self) -> None:
        self.steps = 0

    def after_run(self, *arguments: object) -> None:
        self.steps += 1
        if self.steps == 2:
            raise tf.errors.AbortedError(None, None, "the server was started anew")


def test_a_session_that_is_lost_ends_the_run(copy: Path) -> None:
    """TensorFlow would begin another with the old weights, under the new numbers of steps."""
    before = fake.contents(copy)
    estimator = tiny.make(copy, save_checkpoints_steps=100)
    with pytest.raises(RunFailedError) as error:
        estimator.train(tiny.input_fn(tiny.ids(64)), max_steps=8, hooks=[LoseTheSession()])
    assert str(error.value) == (
        "the session was lost after step 6 (the server of hmoe.Session.master has stopped or was "
        "started anew), and the weights since the last checkpoint with it; run the same command "
        "again to resume from there"
    )
    after = fake.contents(copy)
    assert {n: c for n, c in after.items() if n.startswith("model.")} == {
        n: c for n, c in before.items() if n.startswith("model.")
    }
    assert [line["step"] for line in tiny.curves(copy)] == [1, 2, 3, 4, 5]


def test_a_checkpoint_that_is_removed_while_predict_begins(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest is chosen again; one that was asked for by its path is not replaced."""
    data = tiny.input_fn(tiny.ids(8))
    restore = MeshSaver.restore

    def remove_first(saver: MeshSaver, session: tf.Session, path: str) -> None:
        if path.endswith("-4"):
            checkpoint_saving.remove(str(copy), 4)
        restore(saver, session, path)

    expected = [row["outputs"] for row in tiny.make(copy).predict(data, f"{copy}/model.ckpt-2")]
    monkeypatch.setattr(MeshSaver, "restore", remove_first)
    found = [row["outputs"] for row in tiny.make(copy).predict(data)]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(checkpoints.RemovedError):
        list(tiny.make(copy).predict(data, f"{copy}/model.ckpt-4"))


def test_refusals(copy: Path) -> None:
    said = refusal(copy, keep_checkpoint_max=-1)
    assert said.startswith("utils.run.keep_checkpoint_max = -1 would keep no checkpoint; it must ")
    said = refusal(copy, bindings=["d_ff_wide = 40"])
    assert said.startswith(f"checkpoint {copy}/model.ckpt-4 does not match the model: ")
    for path in copy.glob("*.index"):
        path.unlink()
    said = refusal(copy)
    assert said.startswith(f"no checkpoint in model_dir '{copy}' is whole (model.ckpt-4: ")


def test_beginning_anew(copy: Path) -> None:
    lines: list[str] = []
    estimator = tiny.make(copy, lines=lines, beginning=Beginning(anew=True))
    before = fake.contents(copy)

    def data(params: dict[str, Any]) -> tf.data.Dataset:
        assert estimator.latest_checkpoint() is None, "so that no data is skipped"
        assert fake.contents(copy) == before
        return tiny.input_fn(tiny.ids(16))(params)

    estimator.train(data, max_steps=2)
    (where,) = copy.glob("overwritten-*")
    assert f"Beginning anew; the files of the run before are in {where}" in lines
    assert estimator.latest_checkpoint() == f"{copy}/model.ckpt-2"
    assert checkpoints.latest(str(where)) == f"{where}/model.ckpt-4"
    assert [len(tiny.curves(folder)) for folder in (copy, where)] == [2, 4]


@pytest.mark.parametrize("beginning", [Beginning(anew=True), Beginning()])
def test_a_first_step_that_fails_changes_nothing(copy: Path, beginning: Beginning) -> None:
    """The files of a good run stay, its curves too, although some are beyond the checkpoint."""
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5}\n')
    before = fake.contents(copy)
    with pytest.raises(RunFailedError, match="^the learning rate is nan at step "):
        train(copy, 6, beginning=beginning, learning_rate_schedule=float("nan"))
    assert fake.contents(copy) == before


class Fails(tf.train.SessionRunHook):
    """Raises after some steps."""

    def __init__(self, steps: int):
        self._left = steps

    def after_run(self, run_context: Any, run_values: Any) -> None:
        self._left -= 1
        if not self._left:
            raise RunFailedError("as a test wants it")


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_what_a_run_is_comes_with_its_first_checkpoint(
    copy: Path, tmp_path: Path, has_checkpoint: bool
) -> None:
    """Beside a checkpoint that there is already, it comes when the new one is whole."""
    folder = copy if has_checkpoint else tmp_path / "new"
    calls: list[list[int]] = []
    beginning = Beginning(keep_run=lambda: calls.append(fake.whole_steps(folder)))
    first = 4 if has_checkpoint else 0
    estimator = tiny.make(folder, beginning=beginning, save_checkpoints_steps=3)
    used = folder / "operative_config.gin"
    used_before = used.read_bytes() if has_checkpoint else None
    for steps in (2, None):
        with contextlib.nullcontext() if steps is None else pytest.raises(RunFailedError):
            hooks = [] if steps is None else [Fails(steps)]
            estimator.train(tiny.input_fn(tiny.ids(64)), first + 5, hooks)
        if steps is not None:
            assert calls == []
            assert fake.whole_steps(folder) == ([2, 4] if has_checkpoint else [])
            assert (used.read_bytes() if used.exists() else None) == used_before
    assert calls == ([[2, 4, 6]] if has_checkpoint else [[]])
    assert used.exists()


def test_only_as_many_as_wanted_are_kept(copy: Path) -> None:
    train(copy, 7, keep_checkpoint_max=2, save_checkpoints_steps=1)
    steps = sorted(path.name for path in copy.glob("*.index"))
    assert steps == ["model.ckpt-6.index", "model.ckpt-7.index"]
