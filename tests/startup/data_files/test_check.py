"""Data files are read or refused whatever they hold, and likely mistakes are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hmoe.startup.data_files import check, lines, scan
from hmoe.startup.request import Request


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=60) | st.text(alphabet="ab\t\n\r \0é", max_size=30).map(str.encode),
    st.sampled_from(["a.tsv", "a.txt", "a.tsv.gz", "a.txt.gz"]),
    st.booleans(),
    st.booleans(),
)
@example(b"\xef\xbb\xbfa\tb\nc\td\n", "a.tsv", False, False)
@example(b"\xff\xfea\0\t\0b\0\n\0", "a.tsv", False, False)
@example(b"a\rb\tc", "a.tsv", False, False)
def test_any_bytes_are_examples_or_one_error(tmp_path_factory, content, name, skip, compress):
    path = str(tmp_path_factory.mktemp("data") / name)
    Path(path).write_bytes(gzip.compress(content) if compress else content)
    request = Request(command="train", model_dir="m", data=path, skip_bad_lines=skip)
    try:
        check.check(request)
    except ValueError as error:
        assert str(error).startswith((path, f"--data {path!r}"))  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "warnings"),
    [
        ("a\tb\nc\td\n", []),
        (
            "Source\tTarget\na\tb\n",
            [
                ", line 1: 'Source' and 'Target' look like names of columns, but are used as an "
                "example; remove the line"
            ],
        ),
        (
            "a\tb\n\ufffd\tc\nd\t\ufffd\n",
            [
                ": 2 examples have the character U+FFFD, which stands for text that was lost in a "
                "conversion; convert the file anew"
            ],
        ),
        ("a\tx\nb\tx\nc\tx\n", [": all 3 examples have the same target"]),
    ],
    ids=["none", "header", "lost", "one_target"],
)
def test_likely_mistakes(tmp_path: Path, content: str, warnings: list[str]) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(content, encoding="utf-8")
    request = Request(command="train", model_dir="m", data=str(path))
    assert check.check(request) == [f"{path}{each}" for each in warnings]


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\nc\td\n", encoding="utf-8")
    first = scan.scan(str(path), "pairs", False)
    monkeypatch.setattr(lines, "reader", None)
    assert scan.scan(str(path), "pairs", False) is first
    monkeypatch.undo()
    path.write_text("a\tb\nc\td\ne\tf\n", encoding="utf-8")
    assert scan.scan(str(path), "pairs", False).num_examples == 3
