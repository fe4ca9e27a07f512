"""One sentence about a full disk, whichever library noticed it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_TEXTS = ("No space left on device", "Disk quota exceeded")


def message(error: BaseException, folder: str) -> str | None:
    """Returns a sentence with the file, what is free and the remedy, or None for other errors.

    Args:
      error: the error that ended a command; those that it came from count as well.
      folder: the folder that the command writes to, for errors that name no file.
    """
    for each in _chain(error):
        if is_full(each):
            path = _path_in(each) or folder
            where = _existing_folder(path)
            return (
                f"no space left to write {path} ({_free(where)} free on the disk of {where}); make "
                "room, then run the same command again"
            )
    return None


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Adds the path of the file that is written to errors of the system that name none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = path
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_full(error: BaseException) -> bool:
    """Returns whether an error is of a disk that has no room, whichever library raised it."""
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    # TensorFlow's errors have no number, and must not be imported here.
    of_tensorflow = type(error).__module__.startswith("tensorflow.")
    return of_tensorflow and any(text in str(error) for text in _TEXTS)


def _path_in(error: BaseException) -> str | None:
    """Returns the path of the file that could not be written, if the error names it."""
    if isinstance(error, OSError):
        return os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else None
    # As in "RESOURCE_EXHAUSTED: m/model.ckpt-4_temp/part-0; No space left on device".
    named = re.search(rf"([^\n]+?); (?:{'|'.join(_TEXTS)})", str(error))
    if named is None:
        return None
    path = named.group(1).split(": ")[-1].strip()
    return re.sub(r"(model\.ckpt-\d+)_temp/.*", r"\1", path)


def _existing_folder(path: str) -> str:
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder or os.getcwd()


def _free(folder: str) -> str:
    """Returns the space that is free for the user, such as "1.5 MB"."""
    try:
        size = float(shutil.disk_usage(folder).free)
    except OSError:
        return "an unknown amount"
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
