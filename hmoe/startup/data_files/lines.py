"""Reads and decodes a user's file line by line, however large, and explains what is wrong with it.

A file of pairs has one example per line: input, tab, target. A file of text is running text, whose
lines are gathered into blocks; a block ends at a blank line, or when it is long enough. Both are
UTF-8, with or without a byte order mark, with Unix or Windows line ends, plain or gzipped (`.gz`).
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar, cast

T = TypeVar("T")

FORMATS: tuple[str, ...] = ("pairs", "text")
_EXTENSIONS = {".tsv": "pairs", ".txt": "text"}

# A file with a longer line is probably not lines of text, and the line would not fit any model.
MAX_LINE_BYTES = 1 << 24
# Long enough for the longest usual sequence of a model, and short enough that a small file has
# blocks for validation.
_BLOCK_BYTES = 2048

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# A pair (input, target), or a block of text alone.
Row = tuple[str, ...]


class BadLineError(ValueError):
    """An error for a line that cannot be used; `problem` has what was found and expected."""

    def __init__(self, path: str, number: int, problem: str):
        super().__init__(f"{path}, line {number}: {problem}")


def format_of(path: str, data_format: str | None) -> str:
    """Returns "pairs" or "text", as given or by the file's extension.

    Raises:
      ValueError: the format is unknown, or none is given and the extension has no format.
    """
    if data_format is not None:
        if data_format not in FORMATS:
            raise ValueError(f"data_format {data_format!r} is not known; use 'pairs' or 'text'")
        return data_format
    name = path[:-3] if path.endswith(".gz") else path
    extension = os.path.splitext(name)[1]
    if extension not in _EXTENSIONS:
        raise ValueError(
            f"{path}: the extension {extension!r} does not show what the file contains; use .tsv "
            "(pairs: input, tab, target) or .txt (running text), also with .gz, or say it with "
            "--data_format=pairs or --data_format=text"
        )
    return _EXTENSIONS[extension]


def _numbered_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields lines without their ends, numbered from 1; of a line that is too long, its start."""
    opener = gzip.open if path.endswith(".gz") else open
    try:
        with cast(BinaryIO, opener(path, "rb")) as file:
            number = 0
            while True:
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                number += 1
                if number == 1 and line.startswith(_BYTE_ORDER_MARK):
                    line = line[len(_BYTE_ORDER_MARK) :]
                yield number, line.rstrip(b"\r\n")
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is not a whole gzip file ({error}); a file that is not gzipped must not end "
            "in .gz"
        ) from error


def _decode(line: bytes) -> str:
    """Returns a line as text, or raises ValueError with the problem alone."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(
            f"found more than {MAX_LINE_BYTES} bytes with no line end; expected lines of text"
        )
    if b"\0" in line:
        raise ValueError(
            f"found a zero byte at column {line.index(0) + 1}; expected text in UTF-8 (not UTF-16)"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"found byte 0x{line[error.start]:02x} at column {error.start + 1}, which is not UTF-8 "
            f"({error.reason}); expected text in UTF-8"
        ) from None


def _decode_pair(line: bytes) -> Row:
    """Returns (input, target), or raises ValueError with the problem alone."""
    expected = "expected input, tab, target"
    text = _decode(line)
    if not text.strip():
        raise ValueError(f"found an empty line; {expected}")
    columns = text.split("\t")
    if len(columns) != 2:
        count = f"{len(columns)} column{'s' * (len(columns) > 1)}"
        raise ValueError(f"found {count} ({len(columns) - 1} tabs); {expected}")
    for side, column in zip(("input", "target"), columns):
        if not column.strip():
            raise ValueError(f"found an empty {side}; {expected}")
    return tuple(columns)


def _parsed_lines(path: str, parse: Callable[[bytes], T], skipped: list[str] | None) -> Iterator[T]:
    """Yields each line as `parse` returns it.

    A bad line raises, or its message is appended to `skipped` if that is a list.
    """
    for number, line in _numbered_lines(path):
        try:
            parsed = parse(line)
        except ValueError as error:
            bad = BadLineError(path, number, str(error))
            if skipped is None:
                raise bad from None
            skipped.append(str(bad))
            continue
        yield parsed


def read_pairs(path: str, skipped: list[str] | None = None) -> Iterator[Row]:
    """Yields (input, target) for each line.

    Args:
      path: a file of pairs.
      skipped: receives the messages of bad lines; if None, the first bad line raises.

    Raises:
      BadLineError: a line is empty, does not have two columns, has an empty column, is not UTF-8,
        or is too long.
      ValueError: a `.gz` file is not gzip.
    """
    return _parsed_lines(path, _decode_pair, skipped)


def read_blocks(path: str, skipped: list[str] | None = None) -> Iterator[Row]:
    """Yields (block,) for each block of running text, whose lines keep their ends.

    Args:
      path: a file of text.
      skipped: receives the messages of bad lines; if None, the first bad line raises.

    Raises:
      BadLineError: a line is not UTF-8, or is too long.
      ValueError: a `.gz` file is not gzip.
    """
    block: list[str] = []
    size = 0
    for line in _parsed_lines(path, _decode, skipped):
        if line.strip():
            block.append(line)
            size += len(line.encode("utf-8")) + 1
        if block and (not line.strip() or size >= _BLOCK_BYTES):
            yield ("\n".join(block) + "\n",)
            block, size = [], 0
    if block:
        yield ("\n".join(block) + "\n",)


def reader(data_format: str) -> Callable[[str, list[str] | None], Iterator[Row]]:
    """Returns the function that reads a format: `read_pairs` or `read_blocks`."""
    return read_pairs if data_format == "pairs" else read_blocks
