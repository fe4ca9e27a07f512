"""Lines of text that a user gives: their ends, their encoding, and where they are from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.startup import text_lines


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"\n\n", ["", ""]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (b"\xef\xbb\xbf", [""]),
        ("a\u2028b\x85c\x0bd\re\x00\n".encode(), ["a\u2028b\x85c\x0bd\re\x00"]),
        (b"", []),
    ],
)
def test_lines(content: bytes, expected: list[str]) -> None:
    assert list(text_lines.decoded(io.BytesIO(content), "x")) == expected


@given(st.binary(max_size=40))
def test_any_bytes_are_as_many_lines_as_line_feeds_or_an_error(content: bytes) -> None:
    lines = text_lines.decoded(io.BytesIO(content), "x")
    try:
        content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="^x, line "):
            list(lines)
    else:
        count = content.count(b"\n") + (not content.endswith(b"\n") and content != b"")
        assert len(list(lines)) == count


def test_a_line_that_is_not_utf8() -> None:
    lines = text_lines.decoded(io.BytesIO(b"a\ncaf\xe9\n"), "standard input")
    assert next(lines) == "a"
    with pytest.raises(ValueError) as error:
        next(lines)
    assert str(error.value) == (
        "standard input, line 2: byte 0xe9 at column 4 is not UTF-8; give text in UTF-8"
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_bytes(b"\n \r\n")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    messages = {
        "none": "does not exist",
        "": "is a folder; give a file with a text on each line",
        "empty": "holds no line; give a file with a text on each line",
        "blank": "holds only blank lines; give a file with a text on each line",
    }
    for name, message in messages.items():
        path = str(tmp_path / name)
        with pytest.raises(ValueError) as error:
            text_lines.read("--input_file", path)
        assert str(error.value) == f"--input_file {path!r} {message}"
    path = str(tmp_path / "latin")
    with pytest.raises(ValueError) as error:
        text_lines.read("--input_file", path)
    assert str(error.value) == (
        f"--input_file {path!r}, line 1: byte 0xe9 at column 4 is not UTF-8; give text in UTF-8"
    )


def test_an_answer_is_one_line() -> None:
    assert text_lines.one_line("a\nb\r\nc\rd\u2028e") == "a b c d\u2028e"
