"""The files that describe a run: whole, edited, torn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hmoe.startup.request import Request
from hmoe.t5.commands import run_files

TEXT = "batch_size = 8\n\nrun.batch_size = %batch_size\n"
NAME_THE_MODEL = (
    "it describes the model: name its gin files with --gin_file, or restore it from a copy"
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    request = Request(command="train", model_dir=str(tmp_path), data="/a/pairs.tsv")
    run_files.write(str(tmp_path), request, TEXT)
    return tmp_path


def read(folder: Path) -> run_files.SavedRun:
    saved = run_files.read(str(folder))
    assert saved is not None
    return saved


def problem(folder: Path) -> str:
    with pytest.raises(run_files.DamagedFileError) as error:
        run_files.read(str(folder))
    return str(error.value)


def test_a_whole_pair(written: Path) -> None:
    text = f"{TEXT}\n{run_files.END}\n"
    assert (written / "config.gin").read_text(encoding="utf-8") == text
    assert read(written) == run_files.SavedRun(
        str(written / "config.gin"), {"data": "/a/pairs.tsv"}, text
    )
    assert sorted(path.name for path in written.iterdir()) == ["config.gin", "run.json"]
    # What it was read from is no other configuration.
    run_files.write(str(written), Request(command="train", model_dir=str(written)), text)
    assert (written / "config.gin").read_text(encoding="utf-8") == text


def test_an_edited_configuration_is_used_and_said(written: Path) -> None:
    path = written / "config.gin"
    trained_with = path.read_text(encoding="utf-8")
    path.write_text(trained_with.replace("8", "9"), encoding="utf-8")
    saved = read(written)
    assert saved.notes == [f"{path} was edited since training wrote it, and is used as it is now"]
    assert saved.trained_with == trained_with


@pytest.mark.parametrize("size", range(0, len(TEXT) + 70, 7))
def test_a_torn_configuration(written: Path, size: int) -> None:
    path = written / "config.gin"
    whole = path.read_bytes()
    path.write_bytes(whole[: min(size, len(whole) - 2)])
    text = problem(written)
    assert text.startswith(f"{path} is damaged (")
    assert text.endswith(f"); {NAME_THE_MODEL}")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "its end is missing"),
        (b"run.batch_size = 8\n", "its end is missing"),
        (b"run.batch_size = 8\nrun.batch\n", "line 2: "),
        (b"a = 1\n\xff\xfe", "byte 6 is no UTF-8"),
        (bytes(50), ""),
    ],
)
def test_a_damaged_configuration(written: Path, content: bytes, what: str) -> None:
    (written / "config.gin").write_bytes(content)
    text = problem(written)
    assert text.startswith(f"{written}/config.gin is damaged ({what}"), text
    (written / "operative_config.gin").write_text("run.batch_size = 8\n", encoding="utf-8")
    assert problem(written).endswith(
        f"; or delete it, for {written}/operative_config.gin to take its place"
    )
    (written / "config.gin").unlink()
    saved = read(written)
    assert not saved.is_whole
    assert saved.notes == [
        f"{written}/operative_config.gin describes the run, since config.gin is missing"
    ]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"data": "/a', "Unterminated string starting at: line 1 column 10 (char 9)"),
        (b"[]", "it holds list where flags by name are expected"),
        (b'{"data": 3}', "data is 3"),
        (b'{"config": [3]}', "config is [3]"),
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


def test_files_of_another_hmoe_have_neither_copy_nor_end(tmp_path: Path) -> None:
    (tmp_path / "config.gin").write_text(TEXT, encoding="utf-8")
    (tmp_path / "run.json").write_text(json.dumps({"data": "x"}), encoding="utf-8")
    assert read(tmp_path) == run_files.SavedRun(str(tmp_path / "config.gin"), {"data": "x"}, TEXT)
