"""Writes small files so that each is there whole or not at all, whatever stops the process."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from typing import IO

from etils import epath

from hmoe.storage import disk_full

# End of the name of a file that is not finished yet.
UNFINISHED = ".unfinished"


def write_text(path: str, text: str) -> None:
    """Writes a text file in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file beside its place, flushes it to the disk, and moves it into place.

    Args:
      path: the file, in a folder that exists; on this machine, or an address such as "gs://...".
      content: its contents.

    Raises:
      OSError: the file cannot be written; what stood in its place is as it was.
    """
    unfinished = epath.Path(f"{path}.{os.getpid()}{UNFINISHED}")
    try:
        with disk_full.naming(path), unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            _flush(file)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(Exception):
            unfinished.unlink(missing_ok=True)
        raise


def _flush(file: IO[bytes]) -> None:
    try:
        os.fsync(file.fileno())
    except (AttributeError, io.UnsupportedOperation):
        pass  # a store on another machine has no such number
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot be asked to
            raise
