"""Finds, reads and writes checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.startup import path_checks

Shapes = dict[str, tuple[int, ...]]


def latest(model_dir: str) -> str | None:
    """Returns the path prefix of the newest checkpoint in a folder, or None."""
    return tf.train.latest_checkpoint(model_dir)


def require_latest(model_dir: str) -> str:
    """Returns the path prefix of the newest checkpoint in a folder.

    Raises:
      ValueError: there is none.
    """
    path = latest(model_dir)
    if path is None:
        path_checks.raise_no_checkpoint(model_dir, tf.io.gfile.isdir(model_dir))
    return path


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
        return {name: tuple(shape) for name, shape in tf.train.list_variables(path)}
    except (tf.errors.NotFoundError, tf.errors.DataLossError, ValueError) as error:
        raise ValueError(
            f"no checkpoint can be read at {path!r}; give its path like "
            "model_dir/model.ckpt-1000 (without .index)"
        ) from error


def read(path: str) -> dict[str, np.ndarray]:
    """Reads all variables of a checkpoint, by name.

    Raises:
      ValueError: no checkpoint can be read at the path.
    """
    names = saved_shapes(path)
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in names}


def write(model_dir: str, step: int, variables: Mapping[str, np.ndarray]) -> str:
    """Writes variables as `model_dir/model.ckpt-<step>`, which becomes the newest checkpoint.

    Args:
      model_dir: the folder, which is made if it does not exist.
      step: the training step.
      variables: values by name.

    Returns:
      The checkpoint's path prefix.
    """
    tf.io.gfile.makedirs(model_dir)
    path = os.path.join(model_dir, f"model.ckpt-{step}")
    with tf.Graph().as_default(), tf.Session() as session:
        # Fed rather than constant, since a graph holds at most 2 GB.
        tensors = [tf.placeholder(value.dtype, value.shape) for value in variables.values()]
        save = tf.raw_ops.SaveV2(
            prefix=path,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=tensors,
        )
        session.run(save, dict(zip(tensors, variables.values())))
    # A relative path, so that the folder can be moved.
    tf.train.update_checkpoint_state(model_dir, os.path.basename(path))
    return path
