"""Warns of training examples that are longer than the model reads."""

from __future__ import annotations

from collections.abc import Callable

from hmoe.t5.commands.gin_config import value
from hmoe.t5.data import cut_examples


def warn_of_training(say: Callable[[str], None]) -> None:
    """Prints how many training examples will be cut, if any, for T5's usual dataset function.

    Args:
      say: prints a line for the user.
    """
    name = value("mesh_train_dataset_fn.mixture_or_task_name")
    lengths = value("run.sequence_length")
    usual = "mesh_train_dataset_fn" in str(value("run.train_dataset_fn"))
    if not (usual and isinstance(name, str) and isinstance(lengths, dict)):
        return
    use_cached = value("mesh_train_dataset_fn.use_cached", False)
    for count in cut_examples.of_training(name, lengths, bool(use_cached)):
        warning = count.warning()
        if warning:
            say(warning)
