"""Where a report is written: the page, and the folder of its pictures beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping

from hmoe.report.content import Picture, Section
from hmoe.storage import atomic_write, local_files

# What a report has written to the folder of its pictures: the digest of each file by name.
_WRITTEN = "written.json"


def pictures_folder(page: str) -> str:
    """Returns the folder of the pictures of a page."""
    return f"{os.path.splitext(page)[0]}_pictures"


def check(page: str) -> None:
    """Checks that a page and the folder of its pictures can be written.

    Raises:
      ValueError: one of them cannot.
    """
    if local_files.is_elsewhere(page):
        raise ValueError(f"--output {page!r} is on another machine; name a file here, and copy it")
    if os.path.isdir(page) or page.endswith(os.sep):
        raise ValueError(f"--output {page!r} is a folder; name a file in it, such as report.html")
    folder = os.path.dirname(page)
    if folder and not os.path.isdir(folder):
        raise ValueError(
            f"--output {page!r} cannot be written: the folder {folder!r} does not exist; make it"
            f" first (mkdir -p {shlex.quote(folder)}), or name another file"
        )
    local_files.check_can_be_written(page, f"--output {page!r}")
    pictures = pictures_folder(page)
    if os.path.lexists(pictures) and not os.path.isdir(pictures):
        raise ValueError(
            f"--output {page!r}: its pictures go to the folder {pictures!r}, but that is a file;"
            " move it, or name another page"
        )


def write(page: str, text: str, sections: Iterable[Section]) -> tuple[str, int]:
    """Writes the pictures and then the page; returns the pictures' folder and their number.

    Pictures of an earlier report that this one has not are removed, unless they were changed since.

    Raises:
      OSError: a file cannot be written.
    """
    folder = pictures_folder(page)
    found = list(_pictures(sections))
    os.makedirs(folder, exist_ok=True)
    files = {f"{picture.name}.svg": picture.svg.encode("utf-8") for picture in found}
    files |= {f"{picture.name}.png": picture.png for picture in found}
    for name, content in files.items():
        atomic_write.write_bytes(os.path.join(folder, name), content)
    written = {name: _digest(content) for name, content in files.items()}
    _remove_earlier(folder, written)
    atomic_write.write_text(os.path.join(folder, _WRITTEN), json.dumps(written, indent=0))
    atomic_write.write_text(page, text)
    return folder, len(found)


def _remove_earlier(folder: str, written: Mapping[str, str]) -> None:
    """Removes what an earlier report wrote to a folder, and nobody has changed, but for these."""
    for name, digest in _earlier(folder).items():
        path = os.path.join(folder, name)
        # A name with a folder in it is none that a report writes.
        if name in written or os.path.basename(name) != name or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            is_unchanged = _digest(file.read()) == digest
        if is_unchanged:
            os.remove(path)


def _earlier(folder: str) -> dict[str, str]:
    """Returns the digests by name of what the last report wrote to a folder; {} if unknown."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        with open(os.path.join(folder, _WRITTEN), encoding="utf-8") as file:
            found = json.load(file)
        if isinstance(found, dict):
            return found
    return {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _pictures(sections: Iterable[Section]) -> list[Picture]:
    items = (item for section in sections for side in section.sides for item in side.items)
    return [item for item in items if isinstance(item, Picture)]
