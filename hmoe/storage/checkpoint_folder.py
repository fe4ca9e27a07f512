"""Puts a folder of checkpoints in order before training saves more into it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Mapping

from etils import epath

from hmoe.storage import (
    atomic_write,
    checkpoint_files,
    checkpoint_saving,
    moving_aside,
    study_files,
)

# What a run writes into its folder beside checkpoints, and is moved aside with them.
_RUN_FILES = re.compile(
    r"checkpoint|(metrics|alarms)\.jsonl|operative_config\.gin|events\.out\.tfevents\..*"
    rf"|report\.html|report_pictures|{study_files.ANY.pattern}"
)
# Folders of evaluations have such names, and one of the files that evaluations write.
_EVALUATIONS = re.compile(r"eval_.*|.*_eval(_.*)?")
_NUMBERS = re.compile(r"metrics\.jsonl|events\.out\.tfevents\..*")
# These describe the run, and its vocabulary; another that begins needs some of its own at once, so
# that copies are put aside.
_DESCRIPTIONS = ("config.gin", "run.json", "vocabulary.model")


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
        where = set_aside(folder, step, moving_aside.DAMAGED)
        say(f"model.ckpt-{step} is damaged ({problem}): moved to {where}")
    checkpoint_saving.write_state(folder)


def clear_leftovers(folder: str) -> None:
    """Removes what saves that died have left: marked steps, and files with temporary names.

    A checkpoint that was being moved aside arrives there.
    """
    for step, names in checkpoint_files.names_by_step(folder).items():
        if checkpoint_files.is_unfinished(step, names):
            if moving_aside.finish(folder, step):
                continue
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
    where = moving_aside.free_folder(folder, base, names)
    moving_aside.move(folder, step, where)
    return where


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
    of_checkpoints = checkpoint_files.names_by_step(folder)
    others = [name for name in checkpoint_files.list_names(folder) if _is_of_run(folder, name)]
    if not of_checkpoints and not others:
        return None
    names = {*others, *_DESCRIPTIONS}.union(*of_checkpoints.values())
    base = time.strftime(f"{moving_aside.OVERWRITTEN}-%Y-%m-%d-%H%M%S")
    where = moving_aside.free_folder(folder, base, names)
    _copy_descriptions(folder, where)
    # The newest checkpoint goes last: up to then the old model can be used where it is.
    steps = sorted(of_checkpoints)
    for step in steps[:-1]:
        moving_aside.move(folder, step, where)
    for name in others:
        epath.Path(os.path.join(folder, name)).replace(os.path.join(where, name))
    for step in steps[-1:]:
        moving_aside.move(folder, step, where)
    return where


def _copy_descriptions(folder: str, where: str) -> None:
    epath.Path(where).mkdir(parents=True, exist_ok=True)
    for name in _DESCRIPTIONS:
        path = epath.Path(os.path.join(folder, name))
        if path.exists():
            atomic_write.write_bytes(os.path.join(where, name), path.read_bytes())


def is_free(folder: str, ignored: Collection[str] = ()) -> bool:
    """Returns whether a folder holds nothing but what a first save that died in it may have left.

    Args:
      folder: the folder, which need not exist.
      ignored: names that do not count.
    """
    names = {name for name in checkpoint_files.list_names(folder) if name not in ignored}
    died = [
        files
        for step, files in checkpoint_files.names_by_step(folder).items()
        if checkpoint_files.is_unfinished(step, files)
    ]
    left = {*_DESCRIPTIONS}.union(*died) if died else set()
    return all(name in left or checkpoint_files.is_leftover(name) for name in names)


def clear_first_save(folder: str) -> None:
    """Removes what a first save that failed has left in a folder that was free before."""
    clear_leftovers(folder)
    for name in _DESCRIPTIONS:
        checkpoint_saving.delete(folder, name)


def _is_of_run(folder: str, name: str) -> bool:
    """Returns whether a name is that of a run's own file, or of a folder of its evaluations."""
    if _RUN_FILES.fullmatch(name):
        return True
    inside = checkpoint_files.list_names(os.path.join(folder, name))
    return bool(_EVALUATIONS.fullmatch(name)) and any(map(_NUMBERS.fullmatch, inside))
