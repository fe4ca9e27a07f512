"""Checkpoints: finding them, checking that they fit the model, and starting from another's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import mtf, tf
from hmoe.startup import path_checks
from hmoe.t5.graphs.model_settings import ModelSettings

Shapes = dict[str, tuple[int, ...]]

# Differences named in an error before the rest is only counted.
MAX_NAMED = 8


def latest(model_dir: str) -> str | None:
    """Path prefix of the newest checkpoint in a folder, or None."""
    return tf.train.latest_checkpoint(model_dir)


def require_latest(model_dir: str) -> str:
    """Path prefix of the newest checkpoint.

    Raises:
      ValueError: there is none.
    """
    path = latest(model_dir)
    if path is None:
        path_checks.raise_no_checkpoint(model_dir, tf.io.gfile.isdir(model_dir))
    return path


def step_of(path: str) -> int:
    """The training step of a checkpoint named as in `model.ckpt-1000`.

    Raises:
      ValueError: the name holds no step.
    """
    return utils.get_step_from_checkpoint_path(path)


def saved_shapes(path: str) -> Shapes:
    """Shape of each variable in a checkpoint, by name.

    Raises:
      ValueError: there is no checkpoint at the path.
    """
    try:
        return {name: tuple(shape) for name, shape in tf.train.list_variables(path)}
    except (tf.errors.NotFoundError, tf.errors.DataLossError, ValueError) as error:
        raise ValueError(
            f"no checkpoint can be read at {path!r}; name it as in model_dir/model.ckpt-1000 "
            "(without .index)"
        ) from error


def read(path: str) -> dict[str, np.ndarray]:
    """All variables of a checkpoint, by name.

    Raises:
      ValueError: there is no checkpoint at the path.
    """
    names = saved_shapes(path)
    reader = tf.train.load_checkpoint(path)
    return {name: reader.get_tensor(name) for name in names}


def write(model_dir: str, step: int, variables: Mapping[str, np.ndarray]) -> str:
    """Writes variables as `model_dir/model.ckpt-<step>`, the folder's newest checkpoint.

    Args:
      model_dir: a folder, which is made if there is none.
      step: of training.
      variables: by name.

    Returns:
      The checkpoint's path prefix.
    """
    tf.io.gfile.makedirs(model_dir)
    path = os.path.join(model_dir, f"model.ckpt-{step}")
    with tf.Graph().as_default(), tf.Session() as session:
        # Fed and not constants, since a graph holds 2 GB at most.
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


def graph_shapes() -> Shapes:
    """Shape of each variable that a checkpoint of the default graph holds, by name."""
    return {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}


def check_fits(path: str, optimizer_too: bool) -> None:
    """Compares a checkpoint with the variables of the default graph, before a session reads it.

    Args:
      path: of the checkpoint.
      optimizer_too: whether the graph trains, so that the optimizer's variables must agree.

    Raises:
      ValueError: names or shapes differ; the message says which.
    """
    saved, built = saved_shapes(path), graph_shapes()
    if not optimizer_too:
        saved = {name: shape for name, shape in saved.items() if not _is_slot(name)}
    differences = _shape_differences(saved, built)
    differences += [f"{name}: only in the model" for name in sorted(set(built) - set(saved))]
    differences += [f"{name}: only in the checkpoint" for name in sorted(set(saved) - set(built))]
    if differences:
        raise ValueError(
            f"checkpoint {path} is of another architecture: {len(differences)} variables differ.\n"
            f"{_named(differences)}\n"
            "Use the gin files it was trained with, or another --model_dir; to start a new model "
            "from some of its variables, set utils.run.init_checkpoint"
        )


def _is_slot(name: str) -> bool:
    """Whether a variable is an optimizer's, by the names of Mesh TensorFlow."""
    return bool(re.search(r"_slot_\w+$", name))


def _shape_differences(saved: Shapes, built: Shapes) -> list[str]:
    return [
        f"{name}: {list(saved[name])} in the checkpoint, {list(built[name])} in the model"
        for name in sorted(set(saved) & set(built))
        if saved[name] != built[name]
    ]


def _named(differences: Sequence[str]) -> str:
    lines = [f"  {difference}" for difference in differences[:MAX_NAMED]]
    if len(differences) > MAX_NAMED:
        lines.append(f"  and {len(differences) - MAX_NAMED} more")
    return "\n".join(lines)


def start_from(settings: ModelSettings) -> str | None:
    """Makes the variables of the default graph begin as in `init_checkpoint`.

    Variables that are in both are taken over, by upstream's `init_variable_filter`,
    `should_load_variable` and `init_checkpoint_variable_mapping`; the others begin as new.

    Args:
      settings: of the model; those without `init_checkpoint` change nothing.

    Returns:
      A line that says how many variables were taken over, or None.

    Raises:
      ValueError: a variable in both has another shape, or no variable is in both.
    """
    path = settings.init_checkpoint
    if not path:
        return None
    saved, built = saved_shapes(path), graph_shapes()
    pattern = re.compile(settings.init_variable_filter or "")
    names = {
        name: utils.init_checkpoint_variable_mapping(name)
        for name in built
        if utils.should_load_variable(name)
    }
    taken = {
        name: there for name, there in names.items() if there in saved and pattern.search(there)
    }
    _check_start(path, {n: saved[there] for n, there in taken.items()}, saved, built)
    with mtf.utils.outside_all_rewrites():
        tf.train.init_from_checkpoint(path, {there: name for name, there in taken.items()})
    tf.logging.info("Begin as new: %s", ", ".join(sorted(set(built) - set(taken))))
    return f"{len(taken)} of {len(built)} variables begin as in {path}; the others begin as new"


def _check_start(path: str, taken: Shapes, saved: Shapes, built: Shapes) -> None:
    if not taken:
        raise ValueError(
            f"utils.run.init_checkpoint = {path!r} has none of the model's {len(built)} variables. "
            f"It has, for example, {sorted(saved)[0]}; the model has {sorted(built)[0]}. "
            "Map the names with init_checkpoint_variable_mapping.mapping_fn"
        )
    differences = _shape_differences(taken, built)
    if differences:
        raise ValueError(
            f"utils.run.init_checkpoint = {path!r} is of another architecture: "
            f"{len(differences)} variables differ in shape.\n{_named(differences)}\n"
            "Change the model, or leave these variables out with utils.run.init_variable_filter or "
            "should_load_variable.filter_fn"
        )


def mesh_saver(keep: int | None = None) -> tf.train.Saver:
    """Saves all variables of the default graph, and restores them in every later session.

    Args:
      keep: how many checkpoints to keep; None for all.
    """
    saver = tf.train.Saver(
        tf.global_variables(),
        sharded=True,
        max_to_keep=keep,
        keep_checkpoint_every_n_hours=2,
        save_relative_paths=True,
    )
    tf.add_to_collection(tf.GraphKeys.SAVERS, saver)
    return saver


class MeshSaver:
    """Saves and restores what a lowering keeps on the devices of its mesh.

    Args:
      lowering: whose variables to save.
      keep: how many checkpoints to keep; None for all.
    """

    def __init__(self, lowering: mtf.Lowering, keep: int | None = None):
        self.to_masters = lowering.copy_slices_to_masters()
        self.to_slices = lowering.copy_masters_to_slices()
        self.saver = mesh_saver(keep)

    def save(self, session: tf.Session, model_dir: str, step: int) -> str:
        """Writes `model_dir/model.ckpt-<step>` and returns its path."""
        session.run(self.to_masters)
        prefix = os.path.join(model_dir, "model.ckpt")
        return self.saver.save(session, prefix, global_step=step, write_meta_graph=False)
