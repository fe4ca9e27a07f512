"""Finds, reads and writes checkpoints."""

from __future__ import annotations

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


def latest(model_dir: str) -> str | None:
    """Returns the path prefix of the newest whole checkpoint in a folder, or None."""
    return checkpoint_files.newest_whole(model_dir).path


def require_latest(model_dir: str, say: Callable[[str], None] | None = None) -> str:
    """Returns the path prefix of the newest whole checkpoint in a folder, which stays as it is.

    Args:
      model_dir: the folder.
      say: prints a line for the user, about newer checkpoints that are damaged.

    Raises:
      ValueError: there is none.
    """
    newest = checkpoint_files.newest_whole(model_dir)
    if newest.path is None:
        checkpoint_files.check_some_whole(model_dir, newest)
        path_checks.raise_no_checkpoint(model_dir, tf.io.gfile.isdir(model_dir))
    if say:
        warn_of_damage(model_dir, say)
    return newest.path


def warn_of_damage(model_dir: str, say: Callable[[str], None]) -> None:
    """Says what is wrong with checkpoints that are newer than the newest whole one."""
    newest = checkpoint_files.newest_whole(model_dir)
    if newest.path and newest.problems:
        say(
            f"Warning: {checkpoint_files.listed(newest.problems)}. Damaged checkpoints are left "
            f"alone; {newest.path} is used instead"
        )


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
    newest = require_latest(model_dir)
    if isinstance(step, str):
        return _all_whole(step, model_dir)
    steps = [step] if isinstance(step, int) else sorted(set(step))
    if steps == [-1]:
        return iter([newest])
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
        if checkpoint_files.problem_of(model_dir, each) is None
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
            raise ValueError(
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


def check_readable(path: str) -> None:
    """Reads all variables of a checkpoint once, unless its checksums have been compared already.

    Raises:
      ValueError: it is damaged.
    """
    folder, step = os.path.dirname(path), step_of(path)
    if checkpoint_manifest.name_of(step) in checkpoint_files.list_names(folder or "."):
        return
    for _ in _each_variable(path):
        pass


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
    """Returns an error for a checkpoint that TensorFlow could not read, with the remedy."""
    lines = [line for line in str(error).splitlines() if any(word in line for word in _REASONS)]
    reason = (lines or [type(error).__name__])[0].split("{{")[0].strip()
    folder, name = os.path.split(path)
    match = re.fullmatch(r"model\.ckpt-(\d+)", name)
    steps = checkpoint_files.saved_steps(folder) if match else []
    earlier = [step for step in steps if match and step < int(match[1])]
    remedy = f"Restore its files ({name}.*) from a copy"
    if earlier:
        remedy += f", or move them out of {folder!r} to use model.ckpt-{earlier[0]}"
    return ValueError(f"checkpoint {path} is damaged: {reason}. {remedy}")


def write(model_dir: str, step: int, variables: Mapping[str, np.ndarray]) -> str:
    """Writes variables as `model_dir/model.ckpt-<step>`, which becomes the newest checkpoint.

    Args:
      model_dir: the folder, which is made if it does not exist.
      step: the training step.
      variables: values by name.

    Returns:
      The checkpoint's path prefix.
    """
    with (
        checkpoint_saving.saving(model_dir, step) as path,
        tf.Graph().as_default(),
        tf.Session() as session,
    ):
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
