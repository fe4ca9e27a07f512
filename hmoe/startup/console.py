"""Prints to the user, and sends everything else to a log file."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from hmoe.startup import live_region, signals, streams
from hmoe.startup.errors import RunFailedError
from hmoe.startup.live_region import LiveRegion

LOG_FILE = "log.txt"


class ReaderGoneError(Exception):
    """Nobody reads the answers any more, as after `hmoe predict | head -1`."""


class Console:
    """Prints lines and errors for the user, and optionally logs everything else to a file.

    A line that cannot be printed, because its reader is gone or its disk is full, stops no command;
    an answer does.

    Args:
      out: stream for answers, and for lines; standard output by default.
      errors: stream for errors; standard error by default.
      answers_only: whether `out` is kept for answers, so that lines go to the stream of errors.
      quiet: whether lines and answers go to the log alone, since another process prints the same.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        errors: TextIO | None = None,
        *,
        answers_only: bool = False,
        quiet: bool = False,
    ):
        self._out = out or sys.stdout
        self._errors = errors or sys.stderr
        self._answers_only = answers_only
        self._quiet = quiet
        self._waiting: list[str] = []  # lines for a log that has not begun
        self._live: LiveRegion | None = None
        self.log_path: str | None = None

    def say(self, line: str) -> None:
        """Prints a line about the command's progress, at once."""
        if self._quiet:
            self._keep(line)
            return
        self._print(line, self._for_lines)

    @contextlib.contextmanager
    def live(self) -> Iterator[LiveRegion | None]:
        """Opens the end of the terminal for a picture that is drawn anew.

        Lines and errors for the same terminal are printed above the picture meanwhile. If a signal
        ends the process, the terminal is put in order first.

        Yields:
          The region; None where lines are all that can be printed: in a pipe or a file, on a
          terminal that cannot move its cursor (`TERM=dumb`), and for a quiet process.
        """
        if self._quiet or not live_region.is_possible(self._for_lines):
            yield None
            return
        self._live = region = LiveRegion(self._for_lines, self._keep)
        try:
            with signals.cleanup(region.close):
                yield region
        finally:
            region.close()
            self._live = None

    def answer(self, line: str) -> None:
        r"""Prints a line of the command's result to standard output, at once.

        On a terminal, control characters are shown as `\x1b` and the like: what a model writes
        must not move the cursor, nor clear the screen.

        Raises:
          ReaderGoneError: nobody reads standard output any more.
          RunFailedError: it cannot be written, such as to a full disk.
        """
        if self._quiet:
            self._keep(line)
            return
        if self._out.isatty():
            line = visible(line)
        try:
            print(line, file=self._out, flush=True)
        except BrokenPipeError as error:
            streams.silence(self._out)
            raise ReaderGoneError from error
        except OSError as error:
            streams.silence(self._out)
            raise RunFailedError(f"cannot write to standard output: {error.strerror}") from error

    def error(self, text: str) -> None:
        """Prints an error."""
        self._print(text, self._errors)

    def prompt(self, text: str) -> None:
        """Prints the beginning of a line that the user completes, beside the answers."""
        self._print(text, self._errors, end="")

    @property
    def answers_reach_a_terminal(self) -> bool:
        """Whether standard output is a terminal."""
        return self._out.isatty()

    def log_to(self, path: str) -> None:
        """Redirects standard error of this process to a file, including that of TensorFlow's C++.

        What `error` prints still reaches the user. Call this before TensorFlow is imported, which
        keeps standard error as it finds it.

        Args:
          path: the file, in a folder that exists; lines are appended to it.

        Raises:
          OSError: the file cannot be written, or is a link.
        """
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        self._errors.flush()
        self._errors = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
        os.dup2(log, 2)
        os.close(log)
        self.log_path = path
        # Otherwise TensorFlow's C++ would leave out its informative lines, or print them.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")
        for line in self._waiting:
            self._record(line)
        self._waiting.clear()

    @property
    def _for_lines(self) -> TextIO:
        return self._errors if self._answers_only else self._out

    def _print(self, line: str, stream: TextIO, end: str = "\n") -> None:
        if self._live is not None and self._live.is_open and end == "\n" and stream.isatty():
            self._live.say(line)
            return
        try:
            print(line, file=stream, end=end, flush=True)
        except OSError as error:
            streams.silence(stream)
            self._record(f"Nothing more is printed: {os.strerror(error.errno or errno.EIO)}")

    def _keep(self, line: str) -> None:
        """Writes a line to the log, now or when it begins."""
        if self.log_path:
            self._record(line)
        else:
            self._waiting.append(line)

    def _record(self, line: str) -> None:
        """Writes a line to the log, if there is one that can be written."""
        if self.log_path:
            try:
                print(f"hmoe: {line}", file=sys.stderr, flush=True)
            except OSError:
                streams.silence(sys.stderr)


def visible(text: str) -> str:
    """Returns a text with its control characters, but for tabs, in the notation of Python."""
    return "".join(c if _is_harmless(c) else ascii(c)[1:-1] for c in text)


def _is_harmless(character: str) -> bool:
    # Neither the C0 and C1 controls nor DEL; the two separators of lines and paragraphs.
    code = ord(character)
    return character == "\t" or not (
        code < 0x20 or 0x7F <= code < 0xA0 or code in (0x2028, 0x2029) or 0xD800 <= code < 0xE000
    )


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
