"""Puts a folder of checkpoints in order before training saves more into it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from hmoe.storage import checkpoint_files, checkpoint_saving

DAMAGED = "damaged"
DIVERGED = "diverged"

# What a run writes into its folder beside checkpoints, and is moved aside with them.
_RUN_FILES = re.compile(
    r"checkpoint|metrics\.jsonl|operative_config\.gin|events\.out\.tfevents\..*|eval_.*|.*_eval(_.*)?"
)
# These describe the run that begins as well, so that copies are put aside.
_COPIED_FILES = ("config.gin", "run.json")


def take_up(folder: str, problems: Mapping[int, str], say: Callable[[str], None]) -> None:
    """Clears leftovers away, and moves damaged checkpoints aside; nothing whole is touched.

    To be called with the folder's lock, once it is certain that training goes on from the newest
    whole checkpoint.

    Args:
      folder: the folder.
      problems: what is wrong with each checkpoint that is newer than the newest whole one.
      say: prints a line for the user.

    Raises:
      OSError: the folder cannot be written.
    """
    clear_leftovers(folder)
    for step, problem in problems.items():
        where = set_aside(folder, step, DAMAGED)
        say(f"model.ckpt-{step} is damaged ({problem}): moved to {where}")
    if checkpoint_files.saved_steps(folder):
        checkpoint_saving.write_state(folder)


def clear_leftovers(folder: str) -> None:
    """Removes what saves that died have left: marked steps, and files with temporary names."""
    for step, names in checkpoint_files.names_by_step(folder).items():
        if checkpoint_files.is_unfinished(step, names):
            checkpoint_saving.clear_unfinished(folder, step)
        elif checkpoint_files.marker_name(step) in names:
            checkpoint_saving.delete(folder, checkpoint_files.marker_name(step))
    for name in checkpoint_files.list_names(folder):
        if checkpoint_files.is_leftover(name):
            checkpoint_saving.delete_leftover(folder, name)


def set_aside(folder: str, step: int, base: str) -> str:
    """Moves the files of a checkpoint to a subfolder.

    Args:
      folder: the folder of checkpoints.
      step: the checkpoint's step.
      base: name of the subfolder, to which a number is added where it has such files already.

    Returns:
      The subfolder's path.
    """
    names = checkpoint_files.names_by_step(folder)[step]
    where = _free_folder(folder, base, names)
    _move(folder, where, names)
    return where


def _free_folder(folder: str, base: str, names: Sequence[str]) -> str:
    """Returns a subfolder `base`, `base-2`, ... that has none of these names yet."""
    number = 1
    while True:
        where = os.path.join(folder, base if number == 1 else f"{base}-{number}")
        if not set(checkpoint_files.list_names(where)).intersection(names):
            return where
        number += 1


def _move(folder: str, where: str, names: Sequence[str]) -> None:
    epath.Path(where).mkdir(parents=True, exist_ok=True)
    for name in names:
        epath.Path(os.path.join(folder, name)).replace(os.path.join(where, name))


def move_old_run(folder: str) -> str | None:
    """Moves the checkpoints and curves of a run aside, for another to begin in its folder.

    Args:
      folder: the folder.

    Returns:
      The subfolder with the old files, or None if there was nothing to move.

    Raises:
      OSError: the folder cannot be written.
    """
    clear_leftovers(folder)
    of_checkpoints = [
        name for names in checkpoint_files.names_by_step(folder).values() for name in names
    ]
    others = filter(_RUN_FILES.fullmatch, checkpoint_files.list_names(folder))
    # Checkpoints go first: without their curves they are whole, curves alone are of no use.
    names = [*of_checkpoints, *others]
    if not names:
        return None
    base = time.strftime("overwritten-%Y-%m-%d-%H%M%S")
    where = _free_folder(folder, base, [*names, *_COPIED_FILES])
    epath.Path(where).mkdir(parents=True, exist_ok=True)
    for name in _COPIED_FILES:
        path = epath.Path(os.path.join(folder, name))
        if path.exists():
            path.copy(os.path.join(where, name))
    _move(folder, where, names)
    return where
