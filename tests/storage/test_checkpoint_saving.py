"""Saves and removals that die at any point, and which old checkpoints are removed."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hmoe.storage import (
    atomic_write,
    checkpoint_files,
    checkpoint_folder,
    checkpoint_manifest,
    checkpoint_saving,
)
from tests.storage import fake_checkpoints as fake


def die(*arguments: object, **named: object) -> None:
    os._exit(9)


def in_a_child(act: Callable[[], None]) -> int:
    """The exit status of a process in which something is done."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_call(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lets the process die in place of the change to the disk of this number."""
    count = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            return die() if count == number else function(*arguments, **named)

        return change

    # Every change to the disk goes through one of these.
    monkeypatch.setattr(atomic_write, "write_bytes", counted(atomic_write.write_bytes))
    monkeypatch.setattr(checkpoint_saving, "delete", counted(checkpoint_saving.delete))
    monkeypatch.setattr(Path, "write_bytes", counted(Path.write_bytes))
    path_type = type(checkpoint_saving.epath.Path("x"))
    monkeypatch.setattr(path_type, "replace", counted(path_type.replace))


# More than a save that removes an old checkpoint makes changes.
@pytest.mark.parametrize("number", range(1, 19))
def test_killed_at_any_change_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for step in (1, 2):
        fake.save(tmp_path, step)

    def save() -> None:
        kill_at_call(monkeypatch, number)
        fake.save(tmp_path, 3, checkpoint_saving.Retention(2))

    killed = in_a_child(save) == 9
    newest = checkpoint_files.newest_whole(str(tmp_path))
    assert newest.path in (f"{tmp_path}/model.ckpt-2", f"{tmp_path}/model.ckpt-3")
    assert newest.problems == {}, "nothing unfinished is visible"
    checkpoint_folder.take_up(str(tmp_path), newest.problems, pytest.fail)
    whole = fake.whole_steps(tmp_path)
    assert whole in ([1, 2], [1, 2, 3], [2, 3])
    expected = {
        f"model.ckpt-{step}.{end}"
        for step in whole
        for end in ("index", "data-00000-of-00002", "data-00001-of-00002", "manifest.json")
    }
    assert set(fake.names(tmp_path)) == {"checkpoint", *expected}
    assert (tmp_path / "checkpoint").read_text() == checkpoint_files.state_text(whole)
    if number == 18:
        assert (killed, whole) == (False, [2, 3]), "the range covers all changes"


def test_leftovers_of_saves_that_died(tmp_path: Path) -> None:
    fake.save(tmp_path, 2)
    kept = fake.contents(tmp_path)
    (tmp_path / "model.ckpt-4_temp").mkdir()
    for name in (
        "model.ckpt-4_temp/part-00000-of-00002.data-00000-of-00001",
        "model.ckpt-4.data-00000-of-00002",
        "model.ckpt-4.unfinished",
        "model.ckpt-4.index.tempstate1234567",
        "model.ckpt-4.manifest.json.77.unfinished",
        "checkpoint.tmp0123456789abcdef",
        "checkpoint.99.unfinished",
        "metrics.jsonl.99.unfinished",
        "alarms.jsonl.98.unfinished",
    ):
        (tmp_path / name).write_text("x")
    assert checkpoint_files.newest_whole(str(tmp_path)) == (f"{tmp_path}/model.ckpt-2", {})
    checkpoint_folder.take_up(str(tmp_path), {}, pytest.fail)
    assert fake.contents(tmp_path) == kept
    assert fake.names(tmp_path) == sorted(kept)


def test_data_without_a_mark_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    fake.save(tmp_path, 2)
    (tmp_path / "model.ckpt-4.data-00000-of-00001").write_text("somebody's weights")
    newest = checkpoint_files.newest_whole(str(tmp_path))
    assert newest.problems == {4: "model.ckpt-4.index is missing"}
    checkpoint_folder.take_up(str(tmp_path), newest.problems, lambda line: None)
    moved = tmp_path / "damaged" / "model.ckpt-4.data-00000-of-00001"
    assert moved.read_text() == "somebody's weights"


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    fake.save(tmp_path, 2)
    before = fake.contents(tmp_path)

    def fail() -> None:
        with checkpoint_saving.saving(str(tmp_path), 4) as prefix:
            fake.write_files(prefix)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert fake.contents(tmp_path) == before


def test_a_step_that_is_saved_again_replaces_its_files(tmp_path: Path) -> None:
    fake.save(tmp_path, 2)
    with checkpoint_saving.saving(str(tmp_path), 2) as prefix:
        assert fake.names(tmp_path) == ["checkpoint", "model.ckpt-2.unfinished"]
        fake.write_files(prefix, "other")
    assert checkpoint_files.newest_whole(str(tmp_path)) == (f"{tmp_path}/model.ckpt-2", {})


def steps_after(folder: Path, keep: int | None, steps: range) -> list[int]:
    retention = checkpoint_saving.Retention(keep)
    for step in steps:
        fake.save(folder, step, retention)
    return fake.whole_steps(folder)


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [5]), (3, [3, 4, 5]), (9, [1, 2, 3, 4, 5]), (0, [1, 2, 3, 4, 5])]
)
def test_old_checkpoints_are_removed(tmp_path: Path, keep: int, kept: list[int]) -> None:
    assert steps_after(tmp_path, keep, range(1, 6)) == kept
    state = (tmp_path / "checkpoint").read_text()
    assert state == checkpoint_files.state_text(kept)
    assert not list(tmp_path.glob("*.unfinished"))


def test_one_in_two_hours_is_kept_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1e9]
    monkeypatch.setattr(checkpoint_saving.time, "time", lambda: clock[0])
    retention = checkpoint_saving.Retention(1)
    for hour in range(8):
        clock[0] = 1e9 + 3600 * hour + 1
        fake.save(tmp_path, hour, retention)
    assert fake.whole_steps(tmp_path) == [2, 4, 6, 7]
    later = checkpoint_saving.Retention(1)
    fake.save(tmp_path, 8, later)
    assert fake.whole_steps(tmp_path) == [2, 4, 6, 8], "by another process too"


def test_only_what_hmoe_saved_in_the_folder_is_removed(tmp_path: Path) -> None:
    """The file `checkpoint` may list what it likes, and users may have put files there."""
    model, other = tmp_path / "model", tmp_path / "other"
    fake.save(other, 1)
    before = fake.contents(other)
    model.mkdir()
    fake.write_files(str(model / "model.ckpt-1"))
    (model / "checkpoint").write_text(
        'model_checkpoint_path: "../other/model.ckpt-1"\n'
        f'all_model_checkpoint_paths: "{other}/model.ckpt-1"\n'
        'all_model_checkpoint_paths: "../other/model.ckpt-1"\n'
    )
    assert checkpoint_files.newest_whole(str(model)).path == str(model / "model.ckpt-1")
    assert steps_after(model, 1, range(2, 5)) == [1, 4]
    assert fake.contents(other) == before
    assert "other" not in (model / "checkpoint").read_text()


@pytest.mark.parametrize("keep", [None, 0, 1, 100])
def test_numbers_of_checkpoints_to_keep(keep: int | None) -> None:
    checkpoint_saving.check_keep(keep)


@pytest.mark.parametrize("keep", [-1, -100, 1.5, "3", True])
def test_wrong_numbers_of_checkpoints_to_keep(keep: object) -> None:
    with pytest.raises(ValueError) as error:
        checkpoint_saving.check_keep(keep)
    assert str(error.value) == (
        f"utils.run.keep_checkpoint_max = {keep!r} would keep no checkpoint; it must be a whole "
        "number of at least 1, or None (or 0) to keep all"
    )


# What a run leaves beside its checkpoints; the first ones describe the next run too.
DESCRIPTIONS = ("config.gin", "run.json", "vocabulary.model")
CURVES = (
    "metrics.jsonl",
    "alarms.jsonl",
    "validation_eval/metrics.jsonl",
    "eval_x/events.out.tfevents.1.host",
    *("trace-4.parquet", "retention-4-kind.json", "report.html", "report_pictures/loss.svg"),
)
# What a user may have put there.
OTHERS = ("log.txt", "mine.txt", "eval_set.tsv", "eval_set/a.tsv", "my_eval/data")


def write_run(folder: Path) -> dict[str, bytes]:
    """Checkpoints of steps 2 and 4, and other files; returns all of them."""
    for step in (2, 4):
        fake.save(folder, step)
    for name in (*DESCRIPTIONS, *CURVES, *OTHERS):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return fake.contents(folder)


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name not in names}


def test_an_old_run_is_moved_aside(tmp_path: Path) -> None:
    before = write_run(tmp_path)
    where = checkpoint_folder.move_old_run(str(tmp_path))
    assert where is not None
    assert Path(where).parent == tmp_path
    assert Path(where).name.startswith("overwritten-")
    rest = {n for n in fake.contents(tmp_path) if not n.startswith("overwritten")}
    assert rest == {*DESCRIPTIONS, *OTHERS}
    assert fake.contents(Path(where)) == without(before, *OTHERS)
    assert checkpoint_folder.move_old_run(str(tmp_path)) is None


def test_a_damaged_checkpoint_of_an_old_run_is_moved_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt-4.index").write_text("damaged")
    where = checkpoint_folder.move_old_run(str(tmp_path))
    assert fake.contents(Path(str(where))) == {"model.ckpt-4.index": b"damaged"}


# More than the moves make changes.
@pytest.mark.parametrize("number", range(1, 37))
@pytest.mark.parametrize("has_manifest", [True, False])
def test_killed_while_an_old_run_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, has_manifest: bool
) -> None:
    """No checkpoint is taken for damaged or lost, and the next start finishes what was begun."""
    write_run(tmp_path)
    if not has_manifest:
        for step in (2, 4):
            (tmp_path / f"model.ckpt-{step}.manifest.json").unlink()
    before = fake.contents(tmp_path)

    def move() -> None:
        kill_at_call(monkeypatch, number)
        checkpoint_folder.move_old_run(str(tmp_path))

    killed = in_a_child(move) == 9
    newest = checkpoint_files.newest_whole(str(tmp_path))
    assert newest.problems == {}
    assert newest.path in (f"{tmp_path}/model.ckpt-4", None), "the newest goes last"
    checkpoint_folder.take_up(str(tmp_path), newest.problems, pytest.fail)
    assert not list(tmp_path.glob("*.unfinished"))
    for path in tmp_path.glob("overwritten-*/*.unfinished"):
        path.unlink()  # a copy that was not finished
    moved = re.compile(r"overwritten-[^/]*/")
    after = {moved.sub("", name): text for name, text in fake.contents(tmp_path).items()}
    assert without(after, "checkpoint") == without(before, "checkpoint"), "nothing is lost"
    folders = [tmp_path, *tmp_path.glob("overwritten-*")]
    whole = [step for folder in folders for step in fake.whole_steps(folder)]
    assert sorted(whole) == [2, 4], "each is whole in one place"
    if number == 36:
        assert (killed, newest.path) == (False, None), "the range covers all changes"


@pytest.mark.parametrize("number", range(1, 8))
def test_killed_while_a_checkpoint_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for step in (2, 4):
        fake.save(tmp_path, step)
    flipped = tmp_path / "model.ckpt-4.index"
    flipped.write_bytes(flipped.read_bytes()[::-1])
    before = fake.contents(tmp_path)

    def take_up() -> None:
        kill_at_call(monkeypatch, number)
        newest = checkpoint_files.newest_whole(str(tmp_path))
        checkpoint_folder.take_up(str(tmp_path), newest.problems, lambda line: None)

    assert in_a_child(take_up) == 9
    newest = checkpoint_files.newest_whole(str(tmp_path))
    assert newest.path == f"{tmp_path}/model.ckpt-2"
    checkpoint_folder.take_up(str(tmp_path), newest.problems, lambda line: None)
    moved = {name: text for name, text in before.items() if name.startswith("model.ckpt-4.")}
    assert fake.contents(tmp_path / "damaged") == moved
    assert {path.name for path in tmp_path.iterdir()} == {
        "damaged",
        *(set(before) - set(moved)),
    }


def test_a_mark_cannot_move_files_out_of_the_folder(tmp_path: Path) -> None:
    fake.save(tmp_path / "model", 2)
    fake.write_files(str(tmp_path / "model" / "model.ckpt-4"))
    (tmp_path / "model" / "model.ckpt-4.unfinished").write_text("moved to ../other\n")
    checkpoint_folder.take_up(str(tmp_path / "model"), {}, pytest.fail)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_state_file_of_a_folder_without_checkpoints_is_not_left(tmp_path: Path) -> None:
    """TensorFlow's own estimators would begin with what it names."""
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../other/model.ckpt-1"\n')
    checkpoint_folder.take_up(str(tmp_path), {}, pytest.fail)
    assert fake.names(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "answers.1.unfinished",
        "answers.txt.unfinished",
        "model.ckpt-4_template.txt",
        "checkpoint.tmp-of-mine",
        "my.gin.7.unfinished",
    ],
)
def test_files_of_others_are_no_leftovers(tmp_path: Path, name: str) -> None:
    """What predict promises to keep, for one."""
    (tmp_path / name).write_text("mine")
    checkpoint_folder.take_up(str(tmp_path), {}, pytest.fail)
    assert fake.contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOTSUP, errno.EINVAL, errno.EACCES])
def test_folders_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    fake.save(tmp_path, 2)
    assert fake.whole_steps(tmp_path) == [2]


def test_an_error_after_the_manifest_does_not_remove_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint_manifest, "_flush_folder", fail)
    with pytest.raises(OSError, match="Input/output error"):
        fake.save(tmp_path, 2)
    assert fake.whole_steps(tmp_path) == [2]


def test_an_old_checkpoint_that_cannot_be_read_does_not_stop_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.save(tmp_path, 1)
    fake.save(tmp_path, 2)
    read = checkpoint_manifest.read

    def fail(folder: str, step: int) -> checkpoint_manifest.Manifest:
        if step == 1:
            raise OSError(errno.EIO, "Input/output error")
        return read(folder, step)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_manifest, "read", fail)
        fake.save(tmp_path, 3, checkpoint_saving.Retention(1))
    assert fake.whole_steps(tmp_path) == [1, 3]
