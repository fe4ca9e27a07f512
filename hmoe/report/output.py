"""Where a report is written: the page, and the folder of its pictures beside it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable

from hmoe.report.content import Picture, Section
from hmoe.storage import atomic_write, local_files


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

    Raises:
      OSError: a file cannot be written.
    """
    folder = pictures_folder(page)
    found = list(_pictures(sections))
    os.makedirs(folder, exist_ok=True)
    for picture in found:
        atomic_write.write_text(os.path.join(folder, f"{picture.name}.svg"), picture.svg)
        atomic_write.write_bytes(os.path.join(folder, f"{picture.name}.png"), picture.png)
    atomic_write.write_text(page, text)
    return folder, len(found)


def _pictures(sections: Iterable[Section]) -> list[Picture]:
    items = (item for section in sections for side in section.sides for item in side.items)
    return [item for item in items if isinstance(item, Picture)]
