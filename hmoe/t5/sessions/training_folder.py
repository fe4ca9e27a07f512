"""The folder that training resumes from and saves to: when it is put in order, and written to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hmoe.storage import checkpoint_files, checkpoint_folder
from hmoe.storage.checkpoint_files import Newest
from hmoe.t5.sessions import checkpoints


def _keep_nothing() -> None:
    """Writes nothing."""


@dataclasses.dataclass(frozen=True)
class Beginning:
    """How training begins in its folder.

    Attributes:
      anew: whether it begins at step 0 although the folder may have checkpoints.
      keep_run: writes what the run is, so that its checkpoints can be used.
    """

    anew: bool = False
    keep_run: Callable[[], None] = _keep_nothing


# From the newest checkpoint, if there is one.
PLAIN = Beginning()


class RunKeeper:
    """Writes what a run is once, with the first checkpoint that a session saves.

    A session that fails before has changed nothing: the checkpoint that it began with is still the
    newest, and the configuration beside it the one that it was trained with.

    Two files cannot be replaced at once, so a process may be killed between the configuration and
    the manifest that makes a checkpoint one. In a folder that has a checkpoint, the configuration
    comes after the manifest. What is left between the two is the new checkpoint with the old
    configuration: the same command says again what it changes, and goes on. The other order would
    leave the old checkpoint with settings that have not proved themselves, and the next start would
    take them up without a word. In a folder without a checkpoint the configuration comes first,
    since a checkpoint alone could not be used, and a configuration alone does no harm.

    Args:
      keep: writes what the run is.
      has_checkpoint: whether the session begins with a checkpoint of its folder.
    """

    def __init__(self, keep: Callable[[], None], has_checkpoint: bool):
        self._keep = keep
        self._has_checkpoint = has_checkpoint
        self._is_kept = False

    def before_manifest(self) -> None:
        """Acts when the data of a checkpoint is written, and its manifest is not."""
        if not self._has_checkpoint:
            self._keep_once()

    def after_manifest(self) -> None:
        """Acts when a checkpoint is whole."""
        self._keep_once()

    def _keep_once(self) -> None:
        if not self._is_kept:
            self._keep()
            self._is_kept = True


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


def take_up(model_dir: str, found: Newest, say: Callable[[str], None]) -> None:
    """Puts the folder of a run that is resumed in order: damaged and unfinished files away.

    Args:
      model_dir: the folder.
      found: what `newest` has returned.
      say: prints a line for the user.

    Raises:
      OSError: the folder cannot be written.
    """
    checkpoint_folder.take_up(model_dir, found.problems, say)


def begin_anew(model_dir: str, say: Callable[[str], None]) -> None:
    """Puts the files of an old run aside, for another to begin in its folder.

    Args:
      model_dir: the folder.
      say: prints a line for the user.

    Raises:
      OSError: the folder cannot be written.
    """
    where = checkpoint_folder.move_old_run(model_dir)
    if where:
        say(f"Beginning anew; the files of the run before are in {where}")
