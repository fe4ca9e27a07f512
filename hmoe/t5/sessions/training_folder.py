"""The folder that training resumes from and saves to, before the first step."""

from __future__ import annotations

from collections.abc import Callable

from hmoe.storage import checkpoint_files, checkpoint_folder
from hmoe.storage.checkpoint_files import Newest
from hmoe.t5.sessions import checkpoints


def newest(model_dir: str, begins_anew: bool) -> Newest:
    """Returns the checkpoint to go on from, and what is wrong with newer ones.

    Args:
      model_dir: the folder.
      begins_anew: whether a run begins whatever the folder has.

    Raises:
      ValueError: the folder has checkpoints, none of them whole, and is not to be begun anew.
    """
    if begins_anew:
        return Newest(None, {})
    found = checkpoints.newest(model_dir)
    checkpoint_files.check_some_whole(model_dir, found)
    return found


def take_up(model_dir: str, found: Newest, say: Callable[[str], None], begins_anew: bool) -> None:
    """Puts a folder in order: the files of an old run aside, damaged and unfinished ones away.

    Args:
      model_dir: the folder.
      found: what `newest` has returned.
      say: prints a line for the user.
      begins_anew: whether a run begins whatever the folder has.

    Raises:
      OSError: the folder cannot be written.
    """
    if not begins_anew:
        checkpoint_folder.take_up(model_dir, found.problems, say)
        return
    where = checkpoint_folder.move_old_run(model_dir)
    if where:
        say(f"Beginning anew; the files of the run before are in {where}")
