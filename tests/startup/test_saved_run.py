"""The files that describe a run: whole, edited, torn, lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hmoe.startup import saved_run
from hmoe.startup.saved_run import SavedRun

TEXT = f"batch_size = 8\n\nrun.batch_size = %batch_size\n\n{saved_run.END}\n"
NAME_THE_MODEL = (
    "it describes the model: name its gin files with --gin_file, or restore it from a copy"
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What training writes."""
    (tmp_path / "config.gin").write_text(TEXT, encoding="utf-8")
    flags = {"data": "/a/pairs.tsv", "config": TEXT.splitlines()}
    (tmp_path / "run.json").write_text(json.dumps(flags), encoding="utf-8")
    return tmp_path


@pytest.fixture
def alone(written: Path) -> Path:
    """The same without the copy, as an older hmoe wrote it."""
    (written / "run.json").write_text('{"data": "/a/pairs.tsv"}', encoding="utf-8")
    return written


def read(folder: Path) -> SavedRun:
    saved = saved_run.read(str(folder))
    assert saved is not None
    return saved


def problem(folder: Path) -> str:
    with pytest.raises(saved_run.DamagedFileError) as error:
        saved_run.read(str(folder))
    return str(error.value)


def copy(folder: Path, what: str) -> SavedRun:
    note = f"{folder}/config.gin {what}: the copy of it in run.json is used instead"
    return SavedRun(None, {"data": "/a/pairs.tsv"}, TEXT, notes=[note])


def test_a_whole_pair(written: Path) -> None:
    saved = read(written)
    assert saved == SavedRun(str(written / "config.gin"), {"data": "/a/pairs.tsv"}, TEXT)
    assert (saved.files, saved.text) == ((str(written / "config.gin"),), "")


def test_nothing(tmp_path: Path) -> None:
    assert saved_run.read(str(tmp_path)) is None
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    assert saved_run.read(str(tmp_path)) is None


def test_an_edited_configuration_is_used_and_said(written: Path) -> None:
    path = written / "config.gin"
    path.write_text(TEXT.replace("8", "9"), encoding="utf-8")
    saved = read(written)
    assert saved.notes == [f"{path} was edited since training wrote it, and is used as it is now"]
    assert (saved.files, saved.trained_with) == ((str(path),), TEXT)


@pytest.mark.parametrize("size", range(0, len(TEXT) - 2, 7))
def test_a_torn_configuration_is_replaced_by_its_copy(written: Path, size: int) -> None:
    (written / "config.gin").write_bytes(TEXT.encode()[:size])
    saved = read(written)
    assert (saved.files, saved.text) == ((), TEXT)
    (note,) = saved.notes
    assert note.startswith(f"{written}/config.gin is damaged (")
    assert note.endswith("): the copy of it in run.json is used instead")


DAMAGED = [
    (b"run.batch_size = 8\nrun.batch\n", "line 2: "),
    (b"a = 1\n\xff\xfe", "byte 6 is no UTF-8"),
    (bytes(50), ""),
]


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "its end is missing"), (b"run.batch_size = 8\n", "its end is missing"), *DAMAGED],
)
def test_a_damaged_configuration_is_replaced_by_its_copy(
    written: Path, content: bytes, what: str
) -> None:
    (written / "operative_config.gin").write_text("run.batch_size = 8\n", encoding="utf-8")
    (written / "config.gin").write_bytes(content)
    (note,) = read(written).notes
    assert note.startswith(f"{written}/config.gin is damaged ({what}")
    (written / "config.gin").unlink()
    assert read(written) == copy(written, "is missing")


@pytest.mark.parametrize("lines", [[], ["run.batch"], TEXT.splitlines()[:-1]])
@pytest.mark.parametrize(("content", "what"), DAMAGED)
def test_a_damaged_configuration_without_a_copy(
    written: Path, content: bytes, what: str, lines: list[str]
) -> None:
    (written / "run.json").write_text(json.dumps({"config": lines}), encoding="utf-8")
    (written / "config.gin").write_bytes(content)
    text = problem(written)
    assert text.startswith(f"{written}/config.gin is damaged ({what}"), text
    assert text.endswith(f"); {NAME_THE_MODEL}")
    (written / "operative_config.gin").write_text("run.batch_size = 8\n", encoding="utf-8")
    assert problem(written).endswith(
        f"{NAME_THE_MODEL}; or delete it, for {written}/operative_config.gin to take its place"
    )
    (written / "config.gin").unlink()
    assert read(written) == SavedRun(
        str(written / "operative_config.gin"), {}, "run.batch_size = 8\n", is_whole=False
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"data": "/a', "Unterminated string starting at: line 1 column 10 (char 9)"),
        (b"[]", "it holds list where flags by name are expected"),
        (b'{"data": 3}', "data is 3"),
        (b'{"config": [3]}', "config is [3]"),
        (b'{"config": true}', "config is True"),
        (b"\xff", "byte 0 is no UTF-8"),
    ],
)
def test_damaged_flags(written: Path, content: bytes, what: str) -> None:
    (written / "run.json").write_bytes(content)
    assert problem(written) == (
        f"{written}/run.json is damaged ({what}); it holds the flags that the model was trained "
        "with: delete it, and give those flags again (such as --data or --module_import), or "
        "restore it from a copy"
    )


def test_files_of_another_hmoe_have_neither_copy_nor_end(alone: Path) -> None:
    (alone / "config.gin").write_text("x = 1\n", encoding="utf-8")
    assert read(alone) == SavedRun(str(alone / "config.gin"), {"data": "/a/pairs.tsv"}, "x = 1\n")
