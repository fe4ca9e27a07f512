"""Moves checkpoints to a subfolder so that each is in one place or the other, as a whole.

The mark of an unfinished step says where its files go before the first of them goes. Where a move
was killed, the next training finishes it; until then what is left behind is no checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection

from etils import epath

from hmoe.storage import atomic_write, checkpoint_files, checkpoint_manifest, checkpoint_saving

DAMAGED = "damaged"
DIVERGED = "diverged"
# Begin of the name of a folder for a run that another one took the place of.
OVERWRITTEN = "overwritten"

# What the mark of a step holds while its files are moved, and the folders that it may name.
_MARK = re.compile(rf"moved to (?P<base>({DAMAGED}|{DIVERGED}|{OVERWRITTEN})(-[0-9-]+)?)\n")


def free_folder(folder: str, base: str, names: Collection[str]) -> str:
    """Returns a subfolder `base`, `base-2`, ... that has none of these names yet."""
    number = 1
    while True:
        where = os.path.join(folder, base if number == 1 else f"{base}-{number}")
        if not set(checkpoint_files.list_names(where)).intersection(names):
            return where
        number += 1


def move(folder: str, step: int, where: str) -> None:
    """Moves the files of a checkpoint to a subfolder that has none of their names.

    Args:
      folder: the folder of checkpoints.
      step: the checkpoint's step.
      where: path of the subfolder, which is made.

    Raises:
      OSError: a folder cannot be written.
    """
    epath.Path(where).mkdir(parents=True, exist_ok=True)
    marker = os.path.join(folder, checkpoint_files.marker_name(step))
    atomic_write.write_text(marker, f"moved to {os.path.basename(where)}\n")
    _finish(folder, step, where)


def finish(folder: str, step: int) -> bool:
    """Finishes the move of a marked checkpoint; returns False if it was not being moved."""
    marker = os.path.join(folder, checkpoint_files.marker_name(step))
    match = _MARK.fullmatch(_text(marker))
    if match is None:
        return False
    where = os.path.join(folder, match["base"])
    epath.Path(where).mkdir(parents=True, exist_ok=True)
    _finish(folder, step, where)
    return True


def _finish(folder: str, step: int, where: str) -> None:
    """Moves what is still to be moved, and takes the mark away; it may begin again at any point.

    The manifest goes first: without it the rest is no checkpoint, and with it alone what has
    arrived is none.
    """
    marker, manifest = checkpoint_files.marker_name(step), checkpoint_manifest.name_of(step)
    names = checkpoint_files.names_by_step(folder).get(step, [])
    for name in sorted(names, key=lambda name: name != manifest):
        if name != marker:
            epath.Path(os.path.join(folder, name)).replace(os.path.join(where, name))
    checkpoint_saving.delete(folder, marker)


def _text(path: str) -> str:
    """Returns what a file holds; "" if it is not there, or holds no text."""
    with contextlib.suppress(*checkpoint_manifest.NOT_THERE, ValueError):
        return epath.Path(path).read_bytes().decode("utf-8")
    return ""
