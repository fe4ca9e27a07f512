"""Finds, reads and writes checkpoints."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.startup import path_checks
from hmoe.storage import checkpoint_files, checkpoint_manifest, checkpoint_saving
from hmoe.storage.checkpoint_files import Newest
from hmoe.storage.checkpoint_manifest import FileState
from hmoe.t5.sessions.plain_paths import readable

Shapes = dict[str, tuple[int, ...]]

# A step, several steps, -1 for the newest, "all", or None for each new checkpoint as it appears.
CheckpointStep: TypeAlias = int | str | Sequence[int] | None

# Seconds between two looks for a new checkpoint.
WAIT_SECONDS = 1.0

# What TensorFlow raises for a file that is missing, cut off or changed.
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)
# Words of the line in TensorFlow's message that says what is wrong.
_REASONS = ("model.ckpt", "sstable", "corrupt", "hecksum", "runcated", "TensorBundle", "Read less")


# What reading checkpoints without a manifest has found, by the states of their files.
_found_in_reading: dict[tuple[FileState, ...], str | None] = {}


class DamagedError(ValueError):
    """TensorFlow cannot read a checkpoint.

    Attributes:
      reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str, remedy: str):
        super().__init__(f"checkpoint {path} is damaged: {reason}. {remedy}")
        self.reason = reason


class RemovedError(ValueError):
    """A checkpoint is not there, or no more: a training that goes on removes old ones."""


def newest(model_dir: str) -> Newest:
    """Returns the newest whole checkpoint of a folder, and what is wrong with newer ones.

    Raises:
      OSError: the system cannot read a file now, whatever its state.
      ValueError: a later version of hmoe has saved a checkpoint.
    """
    return checkpoint_files.newest_whole(model_dir, problem_in_reading)


def latest(model_dir: str) -> str | None:
    """Returns the path prefix of the newest whole checkpoint in a folder, or None."""
    return newest(model_dir).path


def require_latest(model_dir: str, say: Callable[[str], None] | None = None) -> str:
    """Returns the path prefix of the newest whole checkpoint in a folder, which stays as it is.

    Args:
      model_dir: the folder.
      say: prints a line for the user, about newer checkpoints that are damaged.

    Raises:
      ValueError: there is none.
    """
    found = newest(model_dir)
    if found.path is None:
        checkpoint_files.check_some_whole(model_dir, found)
        path_checks.raise_no_checkpoint(model_dir, tf.io.gfile.isdir(model_dir))
    if say:
        warn_of_damage(found, say)
    return found.path


def warn_of_damage(found: Newest, say: Callable[[str], None]) -> None:
    """Prints what is wrong with checkpoints that are newer than the newest whole one."""
    if found.path and found.problems:
        say(
            f"Warning: {checkpoint_files.listed(found.problems)}. Damaged checkpoints are left "
            f"alone; {found.path} is used instead"
        )


def again_if_removed(act: Callable[[], None], say: Callable[[str], None]) -> None:
    """Does something with the newest checkpoint, and once more if that was removed meanwhile.

    Args:
      act: chooses the checkpoint each time.
      say: prints a line for the user.
    """
    try:
        act()
    except RemovedError:
        say("The newest checkpoint was removed by a training that goes on; using its next one")
        act()


def paths(step: CheckpointStep, model_dir: str) -> Iterator[str]:
    """Yields the paths of the checkpoints that an `eval_checkpoint_step` asks for.

    Args:
      step: a step; several; -1 for the newest; "all", from the earliest; or None for the newest and
        then each new one as it appears, without end.
      model_dir: the folder.

    Raises:
      ValueError: a checkpoint is not there, and the message lists those that are; or, when it is
        its turn, it is damaged.
    """
    if step is None:
        return _as_they_appear(model_dir)
    path = require_latest(model_dir)
    if isinstance(step, str):
        return _all_whole(step, model_dir)
    steps = [step] if isinstance(step, int) else sorted(set(step))
    if steps == [-1]:
        return iter([path])
    for each in steps:
        checkpoint_files.check_step(model_dir, each)
    return (checkpoint_files.require_whole(model_dir, each) for each in steps)


def _all_whole(word: str, model_dir: str) -> Iterator[str]:
    """Returns all whole checkpoints of a folder, which are looked at one after another."""
    if word != "all":
        raise ValueError(
            f"utils.run.eval_checkpoint_step = {word!r}; it must be a step, a list of steps, -1 "
            "for the newest checkpoint, 'all', or None for each new one"
        )
    steps = sorted(checkpoint_files.saved_steps(model_dir))
    return (
        checkpoint_files.prefix(model_dir, each)
        for each in steps
        if checkpoint_files.problem_of(model_dir, each, read=problem_in_reading) is None
    )


def _as_they_appear(model_dir: str) -> Iterator[str]:
    """Yields the newest checkpoint of a folder whenever it is another one, without end."""
    last = None
    while True:
        path = latest(model_dir)
        if path and path != last:
            last = path
            yield path
        else:
            time.sleep(WAIT_SECONDS)


def step_of(path: str) -> int:
    """Returns the training step of a checkpoint named like `model.ckpt-1000`.

    Raises:
      ValueError: the name contains no step.
    """
    return utils.get_step_from_checkpoint_path(path)


def saved_shapes(path: str) -> Shapes:
    """Returns the shape of each variable in a checkpoint, by name.

    Raises:
      ValueError: no checkpoint can be read at the path.
    """
    try:
        return {name: tuple(shape) for name, shape in tf.train.list_variables(readable(path))}
    except _READ_ERRORS as error:
        if not tf.io.gfile.exists(f"{path}.index"):
            raise RemovedError(
                f"no checkpoint can be read at {path!r}; give its path like "
                "model_dir/model.ckpt-1000 (without .index)"
            ) from error
        raise damaged(path, error) from error


def read(path: str) -> dict[str, np.ndarray]:
    """Reads all variables of a checkpoint, by name.

    Raises:
      ValueError: no checkpoint can be read at the path.
    """
    return dict(_each_variable(path))


def problem_in_reading(path: str) -> str | None:
    """Reads all variables of a checkpoint, once in a process if it stays as it is.

    Args:
      path: its path prefix, such as "m/model.ckpt-1000".

    Returns:
      What is wrong with it, or None.

    Raises:
      OSError: the system cannot read a file now, whatever its state; or there is no such file.
    """
    folder, step = os.path.dirname(path), step_of(path)
    names = checkpoint_files.names_by_step(folder).get(step, [])
    states = tuple(checkpoint_manifest.state_of(os.path.join(folder, name)) for name in names)
    if states not in _found_in_reading:
        found = _problem_in_reading(path)
        if found is not None:
            # A store that did not answer for a moment is no damage.
            checkpoint_files.check_can_be_read(folder, step)
            found = _problem_in_reading(path)
        _found_in_reading[states] = found
    return _found_in_reading[states]


def _problem_in_reading(path: str) -> str | None:
    try:
        for _ in _each_variable(path):
            pass
    except DamagedError as error:
        return error.reason
    except RemovedError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    return None


def _each_variable(path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name and the value of each variable of a checkpoint, one in memory at a time."""
    names = saved_shapes(path)
    reader = tf.train.load_checkpoint(readable(path))
    for name in names:
        try:
            value = reader.get_tensor(name)
        except _READ_ERRORS as error:
            raise damaged(path, error) from error
        yield name, value


def read_variable(path: str, name: str) -> np.ndarray:
    """Reads one variable of a checkpoint.

    Raises:
      ValueError: the checkpoint cannot be read.
    """
    try:
        return tf.train.load_checkpoint(readable(path)).get_tensor(name)
    except _READ_ERRORS as error:
        raise damaged(path, error) from error


def damaged(path: str, error: Exception) -> ValueError:
    """Returns an error for a checkpoint that TensorFlow could not read, with the remedy.

    It is a `DamagedError`; or a `RemovedError`, if the checkpoint is no more in its folder.
    """
    lines = [line for line in str(error).splitlines() if any(word in line for word in _REASONS)]
    reason = (lines or [type(error).__name__])[0].split("{{")[0].strip()
    folder, name = os.path.split(path)
    match = re.fullmatch(r"model\.ckpt-(\d+)", name)
    steps = checkpoint_files.saved_steps(folder) if match else []
    if match and int(match[1]) not in steps:
        return RemovedError(
            f"checkpoint {path} was removed before it was read, as training removes old ones; run "
            "the same command again"
        )
    earlier = [step for step in steps if match and step < int(match[1])]
    remedy = f"Restore its files ({name}.*) from a copy"
    if earlier:
        remedy += f", or move them out of {folder!r} to use model.ckpt-{earlier[0]}"
    return DamagedError(path, reason, remedy)


def write(
    model_dir: str,
    step: int,
    variables: Mapping[str, np.ndarray],
    write_first: Callable[[], None] = lambda: None,
) -> str:
    """Writes variables as `model_dir/model.ckpt-<step>`, which becomes the newest checkpoint.

    Args:
      model_dir: the folder, which is made if it does not exist.
      step: the training step.
      variables: values by name.
      write_first: writes what must be in the folder before the checkpoint is.

    Returns:
      The checkpoint's path prefix.
    """
    with (
        checkpoint_saving.saving(model_dir, step) as path,
        tf.Graph().as_default(),
        tf.Session() as session,
    ):
        write_first()
        # Fed rather than constant, since a graph holds at most 2 GB.
        tensors = [tf.placeholder(value.dtype, value.shape) for value in variables.values()]
        save = tf.raw_ops.SaveV2(
            prefix=path,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=tensors,
        )
        session.run(save, dict(zip(tensors, variables.values())))
    return path
