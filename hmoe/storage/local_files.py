"""Files and folders on this machine, and the errors for those that are not as they should be."""

from __future__ import annotations

import os
import stat
import tempfile


def is_elsewhere(path: str) -> bool:
    """Returns whether a path names another machine or store, which TensorFlow may reach."""
    return "://" in path


def check_file(path: str, shown: str = "") -> None:
    """Raises ValueError unless a path names a file that can be read and is not empty.

    Args:
      path: the path.
      shown: how messages name it; by default the path.
    """
    check_readable(path, shown or path)
    if not os.path.getsize(path):
        raise ValueError(f"{shown or path} is empty")


def check_readable(path: str, shown: str) -> None:
    """Raises ValueError unless a path names a file that can be read.

    Args:
      path: the path.
      shown: how messages name it.
    """
    if not os.path.exists(path):
        raise ValueError(f"{shown} does not exist")
    if os.path.isdir(path):
        raise ValueError(f"{shown} is a folder; give the file in it")
    # Reading from a pipe or a device would wait, and could not be done twice.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(
            f"{shown} is a pipe or a device, which cannot be read twice; write its lines to a file"
        )
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ValueError(f"{shown} cannot be read: {error.strerror}") from error


def check_folder(path: str, shown: str) -> None:
    """Raises ValueError unless a path names a folder.

    Args:
      path: the path.
      shown: how messages name it.
    """
    if not os.path.exists(path):
        raise ValueError(f"{shown} does not exist")
    if not os.path.isdir(path):
        raise ValueError(f"{shown} is a file; give a folder")


def check_can_be_written(path: str, shown: str) -> None:
    """Raises ValueError if a new file or folder cannot be made at a path; makes nothing that stays.

    Args:
      path: the path; folders on the way to it may be missing, and would be made.
      shown: how messages name it.
    """
    if os.path.isfile(path) and not os.access(path, os.W_OK):
        raise ValueError(f"{shown} cannot be written: the file that is there is protected")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):  # those in between would be made
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ValueError(f"{shown} cannot be written: {folder} is a file")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{shown} cannot be written: {folder} takes no new file ({error.strerror})"
        ) from error


def missing_folders(folder: str) -> tuple[str, ...]:
    """Returns the folders that have to be made for a folder to exist, outermost first."""
    missing: list[str] = []
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return tuple(missing)
