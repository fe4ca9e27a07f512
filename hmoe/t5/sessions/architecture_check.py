"""Checks that a checkpoint matches the variables of a model, before a session reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hmoe.compat.stack import tf
from hmoe.lowering import slice_variables
from hmoe.t5.sessions.checkpoints import Shapes, saved_shapes

# Number of differences that an error lists; it only counts the rest.
MAX_LISTED = 8


def graph_shapes() -> Shapes:
    """Returns the shape of each variable of the default graph, by its name in checkpoints."""
    parts = map(slice_variables.part_of, tf.global_variables())
    return {part.name: part.shape for part in parts}


def check_matches(path: str, with_optimizer: bool) -> None:
    """Compares a checkpoint with the variables of the default graph.

    Args:
      path: the checkpoint's path prefix.
      with_optimizer: whether the optimizer's variables must match too, as they must in training.

    Raises:
      ValueError: names or shapes differ; the message lists them.
    """
    saved, built = saved_shapes(path), graph_shapes()
    if not with_optimizer:
        saved = {name: shape for name, shape in saved.items() if not is_slot(name)}
    differences = shape_differences(saved, built)
    differences += [f"{name}: only in the model" for name in sorted(set(built) - set(saved))]
    differences += [f"{name}: only in the checkpoint" for name in sorted(set(saved) - set(built))]
    if differences:
        raise ValueError(
            f"checkpoint {path} does not match the model: {len(differences)} variables differ.\n"
            f"{listed(differences)}\n"
            "Use the gin files that it was trained with, or another --model_dir; to start a new "
            "model from some of its variables, set utils.run.init_checkpoint"
        )


def is_slot(name: str) -> bool:
    """Returns whether a variable is an optimizer's, by Mesh TensorFlow's names."""
    return bool(re.search(r"_slot_\w+$", name))


def shape_differences(saved: Shapes, built: Shapes) -> list[str]:
    """Returns a line for each variable in both that has two shapes."""
    return [
        f"{name}: {list(saved[name])} in the checkpoint, {list(built[name])} in the model"
        for name in sorted(set(saved) & set(built))
        if saved[name] != built[name]
    ]


def listed(differences: Sequence[str]) -> str:
    """Returns the first differences as indented lines, and the number of the others."""
    lines = [f"  {difference}" for difference in differences[:MAX_LISTED]]
    if len(differences) > MAX_LISTED:
        lines.append(f"  and {len(differences) - MAX_LISTED} more")
    return "\n".join(lines)
