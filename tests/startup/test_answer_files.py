"""Checks of the files for answers and scores, before TensorFlow is loaded, and their writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hmoe.startup import answer_files, flag_checks
from hmoe.startup.request import Request


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_text("a\nb\n\n", encoding="utf-8")
    (tmp_path / "out").write_text("c\nd\n\n", encoding="utf-8")
    (tmp_path / "longer").write_text("c\n" * 6, encoding="utf-8")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "o.inputs").symlink_to("in")
    (tmp_path / "there").mkdir()
    (tmp_path / "bad").write_bytes(b"a\n\n\xff\n")
    return tmp_path


def check(request: Request) -> None:
    """In the order of `request_checks`."""
    flag_checks.check(request)
    answer_files.check(request)


def message(command: str, **fields: object) -> str:
    with pytest.raises(ValueError) as error:
        check(Request(command=command, model_dir="m", **fields))
    return str(error.value)


@pytest.mark.parametrize(
    ("command", "fields", "expected"),
    [
        ("predict", {"input_file": "none"}, "--input_file 'none' does not exist"),
        (
            "predict",
            {"input_file": "bad"},
            "--input_file 'bad', line 3: byte 0xff at column 1 is not UTF-8; give text in UTF-8",
        ),
        *[
            (
                "predict",
                {"input_file": "in", "output_file": output},
                f"--output_file '{output}' would replace --input_file 'in'; name another file to write to",
            )
            for output in ("in", "link", "./there/../in")
        ],
        (
            "predict",
            {"input_file": "in", "output_file": "there"},
            "--output_file 'there' is a folder; name a file in it",
        ),
        (
            "predict",
            {"input_file": "in", "output_file": "in/o"},
            "--output_file 'in/o' cannot be written: {folder}/in is a file",
        ),
        (
            "score",
            {"input_file": "in", "target_file": "longer"},
            "--input_file 'in' has 3 lines and --target_file 'longer' has 6 lines; each target "
            "needs its input on the line of the same number (repeat an input that has several targets)",
        ),
        (
            "score",
            {"input_file": "in", "target_file": "out", "output_file": "o"},
            "--output_file 'o' would replace --input_file 'in'; name another file to write to",
        ),
        (
            "export",
            {"export_dir": "in"},
            "--export_dir 'in' is a file; name a folder",
        ),
        ("predict", {"text": ("x\udcff",)}, "the text is not in UTF-8: b'x\\xff'"),
    ],
)
def test_what_cannot_be_used(folder: Path, command: str, fields: dict, expected: str) -> None:
    assert message(command, **fields) == expected.replace("{folder}", str(folder))


def test_what_can_be_used(folder: Path) -> None:
    for command, fields in (
        ("predict", {"input_file": "in", "output_file": "new/folder/o"}),
        ("score", {"input_file": "in", "target_file": "out", "output_file": "in"}),
        ("score", {"target_file": "longer"}),
        ("predict", {"input_file": "gs://none/in", "output_file": "gs://none/in"}),
    ):
        check(Request(command=command, model_dir="m", **fields))
    assert not (folder / "new").exists()


def test_a_file_is_there_when_it_is_whole(folder: Path) -> None:
    path = folder / "new" / "o"
    with answer_files.writing(str(path)) as write:
        write("one\ntwo")
        assert os.listdir(path.parent) == ["o.unfinished"]
        assert (folder / "new" / "o.unfinished").read_text(encoding="utf-8") == "one two\n"
    assert os.listdir(path.parent) == ["o"]


def test_an_interrupted_file_leaves_what_stood_there_and_what_was_done(folder: Path) -> None:
    def interrupted() -> None:
        with answer_files.writing("out") as write:
            write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (folder / "out").read_text(encoding="utf-8") == "c\nd\n\n"
    assert (folder / "out.unfinished").read_text(encoding="utf-8") == "new\n"


def test_nothing_is_made_where_nothing_was_written(folder: Path) -> None:
    before = sorted(os.listdir(folder))

    def failed() -> None:
        with answer_files.writing("new/folder/o"):
            raise ValueError("before the first line")

    with pytest.raises(ValueError, match="before the first line"):
        failed()
    assert sorted(os.listdir(folder)) == before
    with answer_files.writing("new/o"):
        pass
    assert (folder / "new" / "o").read_text(encoding="utf-8") == ""


def test_a_file_that_cannot_be_written(folder: Path) -> None:
    with pytest.raises(ValueError) as error, answer_files.writing("in/o"):
        pass
    assert str(error.value) == "--output_file 'in/o' cannot be written: File exists"
