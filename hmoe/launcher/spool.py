"""Keeps standard input in a file, since processes cannot share a stream."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

from hmoe.startup import signals


@contextlib.contextmanager
def standard_input() -> Iterator[str]:
    """Copies standard input, to its end, to a temporary file for its owner alone.

    Yields:
      The path of the file, which is removed at the end, also if a signal ends the process.

    Raises:
      ValueError: standard input is a terminal, or has no line.
      OSError: the file cannot be written.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError(
            "many processes cannot share a prompt; give a text or --input_file, or pipe lines to "
            "hmoe launch"
        )
    number, path = tempfile.mkstemp(prefix="hmoe-", suffix=".txt")

    def remove() -> None:
        with contextlib.suppress(OSError):
            os.unlink(path)

    with signals.cleanup(remove):
        try:
            with os.fdopen(number, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            if not os.path.getsize(path):
                raise ValueError("standard input has no line; give a text or --input_file")
            yield path
        finally:
            remove()
