"""Reads the lines of text that a user gives to answer or to score.

A line ends at a line feed, with or without the carriage return of Windows before it. A byte order
mark at the start is no part of the text. Blank lines are lines: each line has its answer or score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from etils import epath

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decoded(source: Iterable[bytes], name: str) -> Iterator[str]:
    """Yields lines as text, without their ends.

    Args:
      source: the lines, with their ends.
      name: what is read, for errors: a file's path, or "standard input".

    Raises:
      ValueError: a line is not UTF-8; the lines before it have been yielded.
    """
    for number, line in enumerate(source, 1):
        if number == 1 and line.startswith(_BYTE_ORDER_MARK):
            line = line[len(_BYTE_ORDER_MARK) :]
        line = line[:-1] if line.endswith(b"\n") else line
        line = line[:-1] if line.endswith(b"\r") else line
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}, line {number}: byte 0x{line[error.start]:02x} at column "
                f"{error.start + 1} is not UTF-8; give text in UTF-8"
            ) from None


def read(flag: str, path: str) -> list[str]:
    """Reads the lines of a file.

    Args:
      flag: what named the file, for errors, such as "--input_file".
      path: the file, on this machine or an address such as "gs://...".

    Raises:
      ValueError: there is no such file, it cannot be read, holds no text, or is not UTF-8.
    """
    file, shown = epath.Path(path), f"{flag} {path!r}"
    if not file.exists():
        raise ValueError(f"{shown} does not exist")
    if file.is_dir():
        raise ValueError(f"{shown} is a folder; give a file with a text on each line")
    try:
        with file.open("rb") as opened:
            lines = list(decoded(opened, shown))
    except OSError as error:
        raise ValueError(f"{shown} cannot be read: {error.strerror or error}") from error
    if not any(line.strip() for line in lines):
        what = "only blank lines" if lines else "no line"
        raise ValueError(f"{shown} holds {what}; give a file with a text on each line")
    return lines


def one_line(text: str) -> str:
    """Returns an answer as one line, with a space for each line end in it."""
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
