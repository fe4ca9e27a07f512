"""Standard streams that can be relied on: open, in UTF-8, and quiet when nobody reads them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO

# Standard input, output and errors, with how each is opened where it was closed.
_STANDARD = ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY))


def prepare() -> None:
    """Opens standard streams that are closed (`hmoe ... >&-`), and makes all of them UTF-8.

    A closed one would be given to the next file that is opened, and everything printed would land
    in that file. What the locale says of encodings is no reason to fail on a date in Arabic.
    """
    for number, flags in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    _reconfigure(sys.stdin, "strict")
    _reconfigure(sys.stdout, "backslashreplace")
    _reconfigure(sys.stderr, "backslashreplace")


def _reconfigure(stream: TextIO, errors: str) -> None:
    if isinstance(stream, io.TextIOWrapper):  # not a stand-in of a test or of a notebook
        with contextlib.suppress(OSError):  # begun already, or moved to another kind of file
            stream.reconfigure(encoding="utf-8", errors=errors)


def silence(stream: TextIO) -> None:
    """Sends a stream that cannot be written any more, and what waits in it, to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def finish() -> None:
    """Flushes the streams, so that Python finds nothing to complain of when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            silence(stream)
