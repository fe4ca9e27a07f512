from __future__ import annotations

import gzip

import pytest

from hmoe.startup.data_files import lines

PAIRS = "Apfel\tapple\r\nМир\tworld\n"
ROWS = [("Apfel", "apple"), ("Мир", "world")]


def write(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode("utf-8")
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte_order_mark"])
def test_pairs(tmp_path, name, start):
    path = write(tmp_path, name, start + PAIRS.encode("utf-8"))
    assert list(lines.read_pairs(path)) == ROWS


def test_last_line_needs_no_end_and_inner_white_space_stays(tmp_path):
    path = write(tmp_path, "a.tsv", "a \t b")
    assert list(lines.read_pairs(path)) == [("a ", " b")]


EXPECTED = "; expected input, tab, target"
BAD = [
    (b"a", "found 1 column (0 tabs)" + EXPECTED),
    (b"a\tb\tc", "found 3 columns (2 tabs)" + EXPECTED),
    (b"", "found an empty line" + EXPECTED),
    (b" \t ", "found an empty line" + EXPECTED),
    (b"a\t ", "found an empty target" + EXPECTED),
    (b"\tb", "found an empty input" + EXPECTED),
    (
        b"ab\xff\tc",
        "found byte 0xff at column 3, which is not UTF-8 (invalid start byte); expected "
        "text in UTF-8",
    ),
]
IDS = ["columns1", "columns3", "empty", "blank", "no_target", "no_input", "not_utf8"]


@pytest.mark.parametrize(("line", "problem"), BAD, ids=IDS)
def test_bad_lines_of_pairs(tmp_path, line, problem):
    path = write(tmp_path, "a.tsv", b"a\tb\n" + line + b"\nc\td\n")
    with pytest.raises(lines.BadLineError) as error:
        list(lines.read_pairs(path))
    assert str(error.value) == f"{path}, line 2: {problem}"
    skipped = []
    assert list(lines.read_pairs(path, skipped)) == [("a", "b"), ("c", "d")]
    assert skipped == [f"{path}, line 2: {problem}"]


def test_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 20)
    path = write(tmp_path, "a.tsv", b"a\tb\n" + b"x" * 70 + b"\nc\td\n")
    skipped = []
    assert list(lines.read_pairs(path, skipped)) == [("a", "b"), ("c", "d")]
    assert skipped == [
        f"{path}, line 2: found more than 20 bytes with no line end; expected lines of text"
    ]


def test_blocks_end_at_blank_lines_and_when_long(tmp_path):
    long_line = "x" * 1500
    text = f"\ufeffone\r\ntwo\n\n\n{long_line}\n{long_line}\nafter\n \nlast"
    path = write(tmp_path, "a.txt", text)
    assert list(lines.read_blocks(path)) == [
        ("one\ntwo\n",),
        (f"{long_line}\n{long_line}\n",),
        ("after\n",),
        ("last\n",),
    ]


def test_bad_lines_of_text(tmp_path):
    path = write(tmp_path, "a.txt", b"one\nt\xe4wo\nthree\n")
    message = (
        f"{path}, line 2: found byte 0xe4 at column 2, which is not UTF-8 (invalid continuation "
        "byte); expected text in UTF-8"
    )
    with pytest.raises(lines.BadLineError) as error:
        list(lines.read_blocks(path))
    assert str(error.value) == message
    skipped = []
    assert list(lines.read_blocks(path, skipped)) == [("one\nthree\n",)]
    assert skipped == [message]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a\tb\n", "Not a gzipped file (b'a\\t')"),
        (
            gzip.compress(b"a\tb\n" * 100)[:-9],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
    ],
    ids=["plain", "cut"],
)
def test_not_a_whole_gzip_file(tmp_path, content, reason):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        list(lines.read_pairs(str(path)))
    assert str(error.value) == (
        f"{path} is not a whole gzip file ({reason}); a file that is not gzipped must not end "
        "in .gz"
    )


def test_formats_by_extension_or_as_asked():
    assert lines.format_of("a.tsv", None) == "pairs"
    assert lines.format_of("dir.x/a.txt.gz", None) == "text"
    assert lines.format_of("a.csv", "pairs") == "pairs"
    assert lines.format_of("a.tsv", "text") == "text"
    with pytest.raises(ValueError) as error:
        lines.format_of("a.csv.gz", None)
    assert str(error.value) == (
        "a.csv.gz: the extension '.csv' does not show what the file contains; use .tsv (pairs: input, "
        "tab, target) or .txt (running text), also with .gz, or say it with --data_format=pairs or "
        "--data_format=text"
    )
    with pytest.raises(ValueError) as error:
        lines.format_of("a.tsv", "csv")
    assert str(error.value) == "data_format 'csv' is not known; use 'pairs' or 'text'"
