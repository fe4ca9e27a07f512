"""Finding, reading and writing checkpoints, also damaged ones and in folders with odd names."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hmoe.storage import checkpoint_saving
from hmoe.t5.sessions import checkpoints

VALUES = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "global_step": np.int64(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        checkpoints.write(str(tmp_path / "model"), step, VALUES)
    return tmp_path / "model"


def message_of(act: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        act()
    return str(error.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        checkpoints.require_latest(str(tmp_path))
    assert str(error.value) == (
        f"model_dir '{tmp_path}' holds no checkpoint; train first (hmoe train "
        f"--model_dir={tmp_path}), or name the folder of a trained model with --model_dir"
    )
    with pytest.raises(ValueError) as error:
        checkpoints.require_latest(str(tmp_path / "none"))
    assert str(error.value) == (
        f"model_dir '{tmp_path}/none' does not exist; train first (hmoe train "
        f"--model_dir={tmp_path}/none), or name the folder of a trained model with --model_dir"
    )


NAMES = ("plain", "a[1]", "a b", "*", "what?", "-dash", "\N{SNOWMAN}", "back\\slash", "end/")


@pytest.mark.parametrize("is_relative", [True, False], ids=["relative", "absolute"])
@pytest.mark.parametrize("name", NAMES)
def test_folders_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_relative: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = name if is_relative else f"{tmp_path}/{name}"
    path = checkpoints.write(folder, 3, VALUES)
    assert path == f"{folder.rstrip('/')}/model.ckpt-3"
    state = (tmp_path / name / "checkpoint").read_text()
    assert state.splitlines()[0] == 'model_checkpoint_path: "model.ckpt-3"'
    assert checkpoints.latest(folder) == path
    read = checkpoints.read(path)
    assert sorted(read) == sorted(VALUES)
    for variable, value in VALUES.items():
        np.testing.assert_array_equal(read[variable], value)
    assert checkpoints.read_variable(path, "global_step") == 3
    assert not list((tmp_path / name).glob("*temp*"))


def test_a_folder_that_was_moved(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "moved")
    assert checkpoints.latest(str(tmp_path / "moved")) == f"{tmp_path}/moved/model.ckpt-3"


def test_damage_is_said_and_nothing_changes(folder: Path) -> None:
    (folder / "model.ckpt-3.index").unlink()
    before = sorted(path.name for path in folder.iterdir())
    lines: list[str] = []
    assert checkpoints.require_latest(str(folder), lines.append) == f"{folder}/model.ckpt-2"
    assert lines == [
        "Warning: model.ckpt-3: model.ckpt-3.index is missing. Damaged checkpoints are left alone; "
        f"{folder}/model.ckpt-2 is used instead"
    ]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_steps_that_are_asked_for(folder: Path) -> None:
    def steps(asked: checkpoints.CheckpointStep) -> list[int]:
        return [checkpoints.step_of(path) for path in checkpoints.paths(asked, str(folder))]

    assert steps(-1) == [3]
    assert steps(2) == [2]
    assert steps([3, 1]) == [1, 3]
    assert steps("all") == [1, 2, 3]
    (folder / "model.ckpt-3.index").write_bytes(b"")
    assert steps(-1) == [2]
    assert steps("all") == [1, 2]


def test_steps_that_are_not_there(folder: Path) -> None:
    missing = (
        "model_dir '{}' has no checkpoint of step 77; it has those of steps 1, 2, 3. Choose one "
        "of these (utils.run.eval_checkpoint_step), or -1 for the newest"
    )
    for asked in (77, [1, 77]):
        said = message_of(lambda asked=asked: checkpoints.paths(asked, str(folder)))
        assert said == missing.format(folder)
    (folder / "model.ckpt-2.index").unlink()
    assert message_of(lambda: next(checkpoints.paths(2, str(folder)))) == (
        f"the checkpoint of step 2 in model_dir '{folder}' is damaged: model.ckpt-2.index is "
        "missing. Choose another step (utils.run.eval_checkpoint_step), or -1 for the newest whole "
        "one"
    )
    assert message_of(lambda: checkpoints.paths("last", str(folder))) == (
        "utils.run.eval_checkpoint_step = 'last'; it must be a step, a list of steps, -1 for the "
        "newest checkpoint, 'all', or None for each new one"
    )


def test_each_new_checkpoint_as_it_appears(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # While it waits, another process saves.
    steps = itertools.count(4)
    monkeypatch.setattr(
        checkpoints.time, "sleep", lambda _: checkpoints.write(str(folder), next(steps), VALUES)
    )
    appearing = checkpoints.paths(None, str(folder))
    assert [checkpoints.step_of(next(appearing)) for _ in range(3)] == [3, 4, 5]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2])


def keep_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[-30:])


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("data-00000-of-00001", flip, "TensorBundle at {path} shard 0 ("),
        ("data-00000-of-00001", shorten, "Read less bytes than requested"),
        ("index", flip, "Unable to read file ({path}.index). "),
        ("index", keep_the_end, ""),
    ],
)
def test_damage_that_shows_only_in_reading(
    folder: Path, file: str, damage: Callable[[Path], None], reason: str
) -> None:
    """Of checkpoints without a manifest, such as T5's, the newest one that can be read is used."""
    path = folder / "model.ckpt-3"
    (folder / "model.ckpt-3.manifest.json").unlink()
    damage(folder / f"model.ckpt-3.{file}")
    said = message_of(lambda: checkpoints.read(str(path)))
    start = f"checkpoint {path} is damaged: "
    assert said.startswith(f"{start}{reason.format(path=path)}")
    assert "\n" not in said
    remedy = ". Restore its files (model.ckpt-3.*) from a copy"
    end = f"{remedy}, or move them out of '{folder}' to use model.ckpt-2"
    assert said.endswith(end)
    problem = said.removeprefix(start).removesuffix(end)
    older = f"{folder}/model.ckpt-2"
    assert checkpoints.newest(str(folder)) == (older, {3: problem})
    lines: list[str] = []
    assert checkpoints.require_latest(str(folder), lines.append) == older
    assert lines == [
        f"Warning: model.ckpt-3: {problem}. Damaged checkpoints are left alone; {older} is used "
        "instead"
    ]
    assert [checkpoints.step_of(each) for each in checkpoints.paths("all", str(folder))] == [1, 2]
    for other in (1, 2):
        for each in folder.glob(f"model.ckpt-{other}.*"):
            each.unlink()
    assert message_of(lambda: checkpoints.read(str(path))).endswith(remedy)
    assert message_of(lambda: checkpoints.require_latest(str(folder))).startswith(
        f"no checkpoint in model_dir '{folder}' is whole (model.ckpt-3: {problem}); nothing was "
    )


def test_what_has_no_manifest_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.ckpt-3.manifest.json").unlink()
    read: list[str] = []
    each_variable = checkpoints._each_variable
    monkeypatch.setattr(
        checkpoints, "_each_variable", lambda path: [read.append(path), each_variable(path)][1]
    )
    for _ in range(3):
        assert checkpoints.latest(str(folder)) == f"{folder}/model.ckpt-3"
    assert read == [f"{folder}/model.ckpt-3"]


def test_a_store_that_does_not_answer_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow's errors do not tell one from the other."""
    (folder / "model.ckpt-3.manifest.json").unlink()

    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoints, "_problem_in_reading", lambda path: "Unable to read model.ckpt-3"
        )
        patch.setattr(checkpoints.checkpoint_manifest, "_checksums", {})
        patch.setattr(checkpoints.checkpoint_manifest, "_compute", fail)
        with pytest.raises(OSError, match="cannot be read now") as error:
            checkpoints.newest(str(folder))
    assert error.value.filename == f"{folder}/model.ckpt-3.data-00000-of-00001"
    once = iter(["Unable to read model.ckpt-3"])
    monkeypatch.setattr(checkpoints, "_problem_in_reading", lambda path: next(once, None))
    assert checkpoints.newest(str(folder)) == (f"{folder}/model.ckpt-3", {})


def test_a_checkpoint_that_training_removed_is_not_called_damaged(folder: Path) -> None:
    path = checkpoints.require_latest(str(folder))
    checkpoint_saving.mark_unfinished(str(folder), 3)
    (folder / "model.ckpt-3.manifest.json").unlink()
    (folder / "model.ckpt-3.data-00000-of-00001").unlink()
    with pytest.raises(checkpoints.RemovedError) as error:
        checkpoints.read(path)
    assert str(error.value) == (
        f"checkpoint {path} was removed before it was read, as training removes old ones; run the "
        "same command again"
    )
    checkpoint_saving.remove(str(folder), 3)
    with pytest.raises(checkpoints.RemovedError):
        checkpoints.saved_shapes(path)


def test_the_newest_is_chosen_once_more_if_it_was_removed(folder: Path) -> None:
    lines: list[str] = []
    chosen: list[str] = []

    def act() -> None:
        chosen.append(checkpoints.require_latest(str(folder)))
        checkpoint_saving.remove(str(folder), checkpoints.step_of(chosen[-1]))
        if len(chosen) == 1:
            checkpoints.read(chosen[-1])

    checkpoints.again_if_removed(act, lines.append)
    assert chosen == [f"{folder}/model.ckpt-3", f"{folder}/model.ckpt-2"]
    assert lines == [
        "The newest checkpoint was removed by a training that goes on; using its next one"
    ]


def test_what_must_be_there_before_a_checkpoint_is(tmp_path: Path) -> None:
    def fail() -> None:
        assert checkpoints.latest(str(tmp_path)) is None
        raise OSError("no configuration")

    with pytest.raises(OSError, match="no configuration"):
        checkpoints.write(str(tmp_path), 3, VALUES, fail)
    assert list(tmp_path.iterdir()) == []
