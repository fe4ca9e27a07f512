"""Prints to the user, and sends everything else to a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

LOG_FILE = "log.txt"


class Console:
    """Prints lines and errors for the user, and optionally logs everything else to a file.

    Args:
      out: stream for answers, and for lines; standard output by default.
      errors: stream for errors; standard error by default.
      answers_only: whether `out` is kept for answers, so that lines go to the stream of errors.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        errors: TextIO | None = None,
        *,
        answers_only: bool = False,
    ):
        self._out = out or sys.stdout
        self._errors = errors or sys.stderr
        self._answers_only = answers_only
        self.log_path: str | None = None

    def say(self, line: str) -> None:
        """Prints a line about the command's progress, at once."""
        print(line, file=self._errors if self._answers_only else self._out, flush=True)

    def answer(self, line: str) -> None:
        """Prints a line of the command's result to standard output, at once."""
        print(line, file=self._out, flush=True)

    def error(self, text: str) -> None:
        """Prints an error."""
        print(text, file=self._errors, flush=True)

    def log_to(self, path: str) -> None:
        """Redirects standard error of this process to a file, including that of TensorFlow's C++.

        What `error` prints still reaches the user. Call this before TensorFlow is imported, which
        keeps standard error as it finds it.

        Args:
          path: the file, in a folder that exists; lines are appended to it.

        Raises:
          OSError: the file cannot be written.
        """
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._errors.flush()
        self._errors = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        os.dup2(log, 2)
        os.close(log)
        self.log_path = path
        # Otherwise TensorFlow's C++ would leave out its informative lines, or print them.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")


def duration(seconds: float) -> str:
    """Formats a time as in `8 s`, `2 min 05 s` or `3 h 07 min`."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: the first column flush left, the others flush right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        return "  ".join([first, *others]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return [line(cells[0]), rule, *[line(row) for row in cells[1:]]]
