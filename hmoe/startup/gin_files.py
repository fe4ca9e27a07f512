"""Finds gin files: those that come with the package, and the folders to look in for others.

In a checkout they stand at the top of the repository, in `gin/`; an installed wheel carries the
same folder as `hmoe/gin/`.
"""

from __future__ import annotations

import codecs
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from hmoe.startup.suggestions import similar
from hmoe.storage.local_files import check_readable

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def folder() -> str:
    """Returns the absolute path of the folder with `models/`, `layouts/`, `tasks/`, `runs/`.

    Raises:
      FileNotFoundError: the package was installed without its gin files.
    """
    installed = os.path.join(_PACKAGE, "gin")
    checkout = os.path.join(os.path.dirname(_PACKAGE), "gin")
    for candidate in (installed, checkout):
        # A `gin` beside an installed package is gin-config's, which has no such folder.
        if os.path.isdir(os.path.join(candidate, "models")):
            return candidate
    raise FileNotFoundError(
        f"the gin files of hmoe are neither in {installed} (an installed package) nor in "
        f"{checkout} (a checkout); install hmoe again"
    )


def search_folders(prefixes: Sequence[str]) -> list[str]:
    """Returns the folders to look for gin files in, after the current one.

    Args:
      prefixes: the folders of `--gin_location_prefix`.

    Returns:
      These, then the folders of T5 and of this package.
    """
    # Importing T5 only to learn where it is would import TensorFlow.
    found = importlib.util.find_spec("t5")
    packages = found.submodule_search_locations if found else None
    t5_folders = [os.path.join(package, "models", "gin") for package in list(packages or [])[:1]]
    return [*prefixes, *t5_folders, folder()]


def mesh_tensorflow_folder() -> str:
    """Returns the folder with Mesh TensorFlow's own gin files, whose defaults are read first."""
    found = importlib.util.find_spec("mesh_tensorflow")
    packages = found.submodule_search_locations if found else None
    return os.path.join(next(iter(packages or [""])), "transformer", "gin")


class MissingFileError(ValueError):
    """An error for a gin file that is in none of the folders.

    Attributes:
      included: whether the message says which file includes it.
    """

    def __init__(self, message: str, *, included: bool = False):
        super().__init__(message)
        self.included = included


def text(path: str) -> str:
    """Returns the text of a gin file on this machine.

    Raises:
      ValueError: it is a folder, cannot be read, or is not in UTF-8.
    """
    if os.path.isdir(path):
        raise ValueError(f"gin file {path!r} is a folder; give the file in it")
    check_readable(path, f"gin file {path!r}")
    with open(path, "rb") as file:
        content = file.read()
    if content.startswith(codecs.BOM_UTF8):
        raise ValueError(
            f"gin file {path!r} begins with a byte order mark, which gin cannot read; save it as "
            "UTF-8 without one"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"gin file {path!r} is not in UTF-8: byte 0x{content[error.start]:02x} at position "
            f"{error.start} (line {line}); save it as UTF-8"
        ) from None


def in_package(path: str) -> str | None:
    """Returns where a path such as `my_package/configs/a.gin` is among Python's packages."""
    first, _, rest = path.partition("/")
    if not first.isidentifier() or not rest:
        return None
    try:
        found = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    folders = list(found.submodule_search_locations or []) if found else []
    files = [os.path.join(folder, rest) for folder in folders]
    return next((file for file in files if os.path.isfile(file)), None)


def check_exists(
    path: str, folders: Sequence[str], exists: Callable[[str], bool] = os.path.exists
) -> None:
    """Raises ValueError, with similar names, unless one of the folders has a gin file.

    Args:
      path: path of the gin file in one of the folders.
      folders: the folders to look in; the first is "", the current one.
      exists: returns whether a file exists.
    """
    if not any(exists(os.path.join(folder, path)) for folder in folders):
        raise_missing(path, folders)


def raise_missing(path: str, folders: Sequence[str]) -> NoReturn:
    """Raises MissingFileError, with similar names, for a gin file that is in no folder.

    Args:
      path: path of the gin file in one of the folders.
      folders: the folders that were looked in; the first is "", the current one.
    """
    known = [
        os.path.relpath(os.path.join(where, name), folder)
        for folder in folders[1:]
        for where, _, names in os.walk(folder)
        for name in names
        if name.endswith(".gin")
    ]
    searched = ", ".join(folder or os.getcwd() for folder in folders)
    raise MissingFileError(f"gin file {path!r} not found in {searched}{similar(path, known)}")
