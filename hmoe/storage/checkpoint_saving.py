"""Saves and removes checkpoints so that only whole ones are visible, whenever a process is killed.

A save marks its step as unfinished, lets TensorFlow write data and index, writes the manifest,
takes the mark away, and points TensorFlow's file `checkpoint` to the new one; only then are old
checkpoints removed. A removal turns the manifest into the mark first. What carries the mark and has
no manifest is no checkpoint, and the next training clears it away.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator

from etils import epath

from hmoe.storage import atomic_write, checkpoint_files, checkpoint_manifest
from hmoe.storage.checkpoint_manifest import Manifest
from hmoe.storage.local_files import is_elsewhere

# One checkpoint of each such span is kept for good, as TensorFlow's saver does it.
KEEP_EVERY_SECONDS = 2 * 60 * 60


@contextlib.contextmanager
def saving(folder: str, step: int, retention: Retention | None = None) -> Iterator[str]:
    """Makes what is written meanwhile a checkpoint, which it becomes as a whole or not at all.

    Args:
      folder: the folder, which is made if it does not exist.
      step: the checkpoint's step; an old checkpoint of this step is removed first.
      retention: removes old checkpoints after the save; None to keep all.

    Yields:
      The path that its index and data files must begin with.

    Raises:
      OSError: the files cannot be written.
    """
    epath.Path(folder).mkdir(parents=True, exist_ok=True)
    remove(folder, step)
    mark_unfinished(folder, step)
    try:
        yield checkpoint_files.prefix(folder, step)
        finish(folder, step)
    except BaseException:
        # Gives back the space, which may be what was missing; what has its manifest is whole.
        with contextlib.suppress(Exception):
            if checkpoint_manifest.name_of(step) not in checkpoint_files.list_names(folder):
                clear_unfinished(folder, step)
        raise
    surplus = retention.surplus(folder) if retention else []
    write_state(folder, without=surplus)
    for old in surplus:
        remove(folder, old)


def mark_unfinished(folder: str, step: int) -> None:
    """Marks a step's files as those of a save that is not finished."""
    atomic_write.write_text(os.path.join(folder, checkpoint_files.marker_name(step)), "")


def finish(folder: str, step: int) -> None:
    """Writes the manifest of a checkpoint whose other files are there, and takes the mark away."""
    names = checkpoint_files.names_by_step(folder).get(step, [])
    written = [name for name in names if name != checkpoint_files.marker_name(step)]
    checkpoint_manifest.write(folder, step, written)
    delete(folder, checkpoint_files.marker_name(step))


def write_state(folder: str, without: Collection[int] = ()) -> None:
    """Writes TensorFlow's file `checkpoint`, for its own tools, if it does not say so already.

    A folder without checkpoints gets none, and loses one that may point out of the folder.

    Args:
      folder: the folder; all checkpoints in it are listed.
      without: steps of checkpoints that are about to be removed.
    """
    steps = sorted(set(checkpoint_files.saved_steps(folder)).difference(without))
    if not steps:
        delete(folder, checkpoint_files.STATE_FILE)
        return
    path = epath.Path(os.path.join(folder, checkpoint_files.STATE_FILE))
    text = checkpoint_files.state_text(steps)
    with contextlib.suppress(OSError):
        if path.read_bytes() == text.encode():
            return
    atomic_write.write_text(os.fspath(path), text)


def remove(folder: str, step: int) -> None:
    """Removes the checkpoint of a step, if there is one; nothing outside the folder is touched."""
    names = checkpoint_files.names_by_step(folder).get(step, [])
    if not names:
        return
    manifest = checkpoint_manifest.name_of(step)
    marker = checkpoint_files.marker_name(step)
    if manifest in names:
        epath.Path(os.path.join(folder, manifest)).replace(os.path.join(folder, marker))
    elif marker not in names:
        mark_unfinished(folder, step)
    clear_unfinished(folder, step)


def clear_unfinished(folder: str, step: int) -> None:
    """Removes the files of a step that is marked as unfinished, and its mark last."""
    marker = checkpoint_files.marker_name(step)
    starts = (f"model.ckpt-{step}.", f"model.ckpt-{step}_")
    for name in checkpoint_files.names_by_step(folder).get(step, []):
        if name != marker:
            delete(folder, name)
    for name in checkpoint_files.list_names(folder):
        if checkpoint_files.is_leftover(name) and name.startswith(starts):
            delete_leftover(folder, name)
    delete(folder, marker)


def delete_leftover(folder: str, name: str) -> None:
    """Removes a file, or a folder with all that is in it; of a link, only the link."""
    path = epath.Path(os.path.join(folder, name))
    if path.is_dir() and not (not is_elsewhere(folder) and os.path.islink(path)):
        path.rmtree(missing_ok=True)
    else:
        delete(folder, name)


def delete(folder: str, name: str) -> None:
    """Deletes a file, if it exists; of a link, only the link."""
    epath.Path(os.path.join(folder, name)).unlink(missing_ok=True)


class Retention:
    """Removes old checkpoints after a save.

    Only those that hmoe has saved are removed, by their manifests: one that a user has put into the
    folder stays.

    Args:
      keep: number of checkpoints to keep; None or 0 for all. One every two hours is kept beside
        these, for good.
    """

    def __init__(self, keep: int | None):
        self._keep = keep
        self._next_kept = time.time() + KEEP_EVERY_SECONDS

    def surplus(self, folder: str) -> list[int]:
        """Returns the steps of the checkpoints to remove, oldest first.

        Those that are to be kept for good are marked so in their manifests.
        """
        if not self._keep:
            return []
        surplus = []
        for manifest in reversed(self._removable(folder)[self._keep :]):
            if manifest.saved > self._next_kept:
                self._next_kept += KEEP_EVERY_SECONDS
                checkpoint_manifest.keep(folder, manifest)
            else:
                surplus.append(manifest.step)
        return surplus

    def _removable(self, folder: str) -> list[Manifest]:
        """Returns the manifests of the checkpoints that are not kept for good, newest first."""
        found = []
        for step in checkpoint_files.saved_steps(folder):
            # What cannot be read now stays, and does not stop a training that could go on.
            with contextlib.suppress(ValueError, OSError):
                found.append(checkpoint_manifest.read(folder, step))
        return [manifest for manifest in found if not manifest.kept]


def check_keep(keep: object) -> None:
    """Raises ValueError unless a number of checkpoints to keep leaves at least one."""
    if keep is None or (isinstance(keep, int) and not isinstance(keep, bool) and keep >= 0):
        return
    raise ValueError(
        f"utils.run.keep_checkpoint_max = {keep!r} would keep no checkpoint; it must be a whole "
        "number of at least 1, or None (or 0) to keep all"
    )
