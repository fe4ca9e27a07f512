"""Damaged files of checkpoints: the newest whole one is found, whatever the small files say."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from etils import epath

from hmoe.storage import (
    checkpoint_files,
    checkpoint_folder,
    checkpoint_manifest,
    checkpoint_saving,
)
from tests.storage import fake_checkpoints as fake

INDEX = "model.ckpt-4.index"
DATA = "model.ckpt-4.data-00001-of-00002"
MANIFEST = "model.ckpt-4.manifest.json"
STATE = "checkpoint"
CURVES = "metrics.jsonl"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_text(path: Path) -> None:
    path.write_text("something else\n")


def missing(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(len(path.read_bytes())))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


# Each way of damage to each kind of file, with what is said of it; "" where step 4 stays whole.
SIZE = " has {found} bytes, but had {saved} when it was saved"
SUM = " is damaged: its checksum is not that of when it was saved"
TORN = " is damaged and cannot be read"
DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    *[
        (name, damage, name + said)
        for name in (INDEX, DATA)
        for damage, said in (
            (cut, SIZE),
            (empty, SIZE),
            (other_text, SIZE),
            (missing, " is missing"),
            (flip, SUM),
            (zeros, SUM),
        )
    ],
    (MANIFEST, cut, MANIFEST + TORN),
    (MANIFEST, empty, MANIFEST + TORN),
    (MANIFEST, other_text, MANIFEST + TORN),
    (MANIFEST, zeros, MANIFEST + TORN),
    (MANIFEST, folder_instead, MANIFEST + TORN),
    (MANIFEST, missing, ""),  # as checkpoints of T5 are, which have none
    *[(STATE, damage, "") for damage in (cut, empty, other_text, missing, zeros)],
    *[(CURVES, damage, "") for damage in (cut, empty, other_text, missing, zeros)],
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 2 and 4, beside curves."""
    model = tmp_path / "model"
    fake.save(model, 2)
    fake.save(model, 4)
    (model / CURVES).write_text('{"step": 2}\n{"step": 4}\n')
    return model


@pytest.mark.parametrize(
    ("name", "damage", "said"), DAMAGES, ids=[f"{d.__name__} {n}" for n, d, _ in DAMAGES]
)
def test_the_newest_whole_checkpoint_is_found(
    folder: Path, name: str, damage: Callable[[Path], None], said: str
) -> None:
    saved = len((folder / name).read_bytes())
    damage(folder / name)
    before = fake.contents(folder)
    found = len((folder / name).read_bytes()) if (folder / name).is_file() else 0
    newest = checkpoint_files.newest_whole(str(folder))
    step = 2 if said else 4
    assert newest.path == str(folder / f"model.ckpt-{step}")
    problem = said.format(found=found, saved=saved)
    assert newest.problems == ({4: problem} if said else {})
    assert fake.contents(folder) == before, "a look changes nothing"

    lines: list[str] = []
    checkpoint_folder.take_up(str(folder), newest.problems, lines.append)
    after = fake.contents(folder)
    if not said:
        assert lines == []
        assert {**before, STATE: after[STATE]} == after
        return
    assert lines == [f"model.ckpt-4 is damaged ({problem}): moved to {folder}/damaged"]
    moved = {n: c for n, c in before.items() if n.startswith("model.ckpt-4.")}
    assert {n.split("/")[-1]: c for n, c in after.items() if n.startswith("damaged/")} == moved
    assert not list(folder.glob("model.ckpt-4.*"))
    assert (folder / STATE).read_text() == (
        'model_checkpoint_path: "model.ckpt-2"\nall_model_checkpoint_paths: "model.ckpt-2"\n'
    )
    assert checkpoint_files.newest_whole(str(folder)) == (str(folder / "model.ckpt-2"), {})


def test_damage_to_one_step_twice_keeps_both(folder: Path) -> None:
    for text in ("damaged", "damaged-2"):
        missing(folder / INDEX)
        newest = checkpoint_files.newest_whole(str(folder))
        checkpoint_folder.take_up(str(folder), newest.problems, lambda line: None)
        assert (folder / text / DATA).exists()
        fake.save(folder, 4)


def test_without_a_manifest_an_index_and_all_its_data_files_count(tmp_path: Path) -> None:
    prefix = tmp_path / "model.ckpt-1000000"
    fake.write_files(str(prefix))
    assert checkpoint_files.newest_whole(str(tmp_path)) == (str(prefix), {})
    index = Path(f"{prefix}.index")
    whole = index.read_bytes()
    for content in (b"", whole[:-1], b"something else"):
        index.write_bytes(content)
        assert checkpoint_files.newest_whole(str(tmp_path)) == (
            None,
            {1000000: "model.ckpt-1000000.index is cut off or is no index"},
        )
    index.write_bytes(whole)
    Path(f"{prefix}.data-00000-of-00002").unlink()
    assert checkpoint_files.newest_whole(str(tmp_path)) == (
        None,
        {1000000: "model.ckpt-1000000.data-00000-of-00002 is missing"},
    )


def test_an_index_alone(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(fake.TABLE_END)
    assert checkpoint_files.newest_whole(str(tmp_path)).problems == {
        4: "model.ckpt-4.data-00000-of-00001 is missing"
    }


def test_a_name_that_promises_too_many_files(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(fake.TABLE_END)
    (tmp_path / "model.ckpt-4.data-00000-of-99999999999999").write_text("")
    assert checkpoint_files.newest_whole(str(tmp_path)).problems == {
        4: "model.ckpt-4.data-00000000000000-of-99999999999999 is missing"
    }


def test_many_damaged_checkpoints_are_counted() -> None:
    problems = dict.fromkeys(range(9, 0, -1), "gone")
    assert checkpoint_files.listed(problems) == (
        "model.ckpt-9: gone; model.ckpt-8: gone; model.ckpt-7: gone; model.ckpt-6: gone; "
        "and 5 older ones"
    )


def test_a_training_that_goes_on_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saves step 6 and removes step 4 after a look at the names."""
    problem_of = checkpoint_files.problem_of

    def look(where: str, step: int, names: list[str], read: None) -> str | None:
        if step == 4:
            fake.save(folder, 6)
            checkpoint_saving.remove(where, 4)
        return problem_of(where, step, names)

    monkeypatch.setattr(checkpoint_files, "problem_of", look)
    assert checkpoint_files.newest_whole(str(folder)) == (str(folder / "model.ckpt-6"), {})


def test_folders_without_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt-x.index").write_text("")
    (tmp_path / "model.ckpt-04.index").write_text("")
    (tmp_path / STATE).write_text('model_checkpoint_path: "../model.ckpt-1"\n')
    for folder in (tmp_path, tmp_path / "none", tmp_path / STATE):
        assert checkpoint_files.newest_whole(str(folder)) == (None, {})
        assert checkpoint_files.saved_steps(str(folder)) == []


def test_all_damaged_is_an_error_that_names_them(folder: Path) -> None:
    missing(folder / INDEX)
    empty(folder / "model.ckpt-2.data-00000-of-00002")
    newest = checkpoint_files.newest_whole(str(folder))
    with pytest.raises(ValueError) as error:
        checkpoint_files.check_some_whole(str(folder), newest)
    assert str(error.value) == (
        f"no checkpoint in model_dir '{folder}' is whole (model.ckpt-4: model.ckpt-4.index is "
        "missing; model.ckpt-2: model.ckpt-2.data-00000-of-00002 has 0 bytes, but had 72 when it "
        "was saved); nothing was changed. Restore these files from a copy, name another "
        "--model_dir, or train anew there with hmoe train --overwrite, which moves the old files "
        "aside"
    )


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The folder of another model."""
    folder = tmp_path / "other"
    fake.save(folder, 9)
    return folder


def test_a_manifest_cannot_name_files_outside(folder: Path, other: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][0]["name"] = "../other/model.ckpt-9.index"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert checkpoint_files.newest_whole(str(folder)) == (
        str(folder / "model.ckpt-2"),
        {4: "model.ckpt-4.manifest.json is not the manifest of this checkpoint"},
    )


def test_a_manifest_of_a_later_version(folder: Path) -> None:
    """It may be whole, so it is not taken for damaged; a version is always a whole number."""
    (folder / MANIFEST).write_text(json.dumps({"format": 2}))
    before = fake.contents(folder)
    with pytest.raises(ValueError) as error:
        checkpoint_files.newest_whole(str(folder))
    assert str(error.value) == (
        f"{folder}/{MANIFEST} has format 2, and this version of hmoe knows formats up to 1: a "
        "later version saved the checkpoint. Nothing was changed; use that version, or move the "
        "checkpoint's files out of the folder"
    )
    assert fake.contents(folder) == before
    for number in (0, "2", None, 1.5):
        (folder / MANIFEST).write_text(json.dumps({"format": number}))
        assert checkpoint_files.newest_whole(str(folder)).problems == {4: MANIFEST + TORN}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("name", [INDEX, DATA, MANIFEST, "index without manifest"])
def test_what_cannot_be_read_now_is_not_taken_for_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    if name == "index without manifest":
        (folder / MANIFEST).unlink()
        name = INDEX
    before = fake.contents(folder)
    path_type = type(epath.Path("x"))

    def fail(function: Callable[..., object]) -> Callable[..., object]:
        def look(path: epath.Path, *arguments: object) -> object:
            if path.name == name:
                raise OSError(number, os.strerror(number))
            return function(path, *arguments)

        return look

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_manifest, "_checksums", {})
        for method in ("read_bytes", "open"):
            patch.setattr(path_type, method, fail(getattr(path_type, method)))
        with pytest.raises(OSError, match="cannot be read now") as error:
            checkpoint_files.newest_whole(str(folder))
    assert (error.value.errno, error.value.filename) == (number, str(folder / name))
    assert error.value.strerror == (
        f"cannot be read now ({os.strerror(number)}); its checkpoint may be whole, so nothing was "
        "changed. Run the same command again when it can be read"
    )
    assert fake.contents(folder) == before


def test_what_cannot_be_read_since_it_was_removed_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a store on another machine says it of a file that is gone."""
    compute = checkpoint_manifest._compute

    def look(path: str) -> str:
        if "model.ckpt-4" in path:
            checkpoint_saving.remove(str(folder), 4)
            raise OSError(errno.ESTALE, "Stale file handle")
        return compute(path)

    monkeypatch.setattr(checkpoint_manifest, "_checksums", {})
    monkeypatch.setattr(checkpoint_manifest, "_compute", look)
    assert checkpoint_files.newest_whole(str(folder)) == (str(folder / "model.ckpt-2"), {})


def test_whole_ones_before_a_step(folder: Path) -> None:
    assert checkpoint_files.has_whole_before(str(folder), 4)
    assert not checkpoint_files.has_whole_before(str(folder), 2)
    empty(folder / "model.ckpt-2.index")
    assert not checkpoint_files.has_whole_before(str(folder), 4)


def test_those_without_a_manifest_are_read(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    found = checkpoint_files.newest_whole(str(folder), lambda path: f"{path} cannot be read")
    assert found == (
        str(folder / "model.ckpt-2"),
        {4: f"{folder}/model.ckpt-4 cannot be read"},
    )
    assert checkpoint_files.newest_whole(str(folder), lambda path: None).problems == {}


def test_links_that_leave_the_folder_are_not_loaded_and_what_they_name_stays(
    folder: Path, other: Path
) -> None:
    before = fake.contents(other)
    for name in fake.names(other):
        if name.startswith("model.ckpt-9"):
            (folder / name).symlink_to(other / name)
    (folder / "model.ckpt-4_temp").symlink_to(other)
    newest = checkpoint_files.newest_whole(str(folder))
    assert newest == (
        str(folder / "model.ckpt-4"),
        {9: "model.ckpt-9.data-00000-of-00002 is a link to a file outside the folder"},
    )
    checkpoint_folder.take_up(str(folder), newest.problems, lambda line: None)
    assert not (folder / "model.ckpt-9.index").exists()
    assert not (folder / "model.ckpt-4_temp").is_symlink()
    assert fake.contents(other) == before


def test_a_folder_that_is_a_link_itself(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "again.index").symlink_to(folder / INDEX)
    newest = checkpoint_files.newest_whole(str(tmp_path / "link"))
    assert newest == (str(tmp_path / "link" / "model.ckpt-4"), {})
