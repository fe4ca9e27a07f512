"""Warns of training examples that are longer than the model reads."""

from __future__ import annotations

from collections.abc import Callable

import gin

from hmoe.t5.commands.gin_config import bound
from hmoe.t5.data import cut_examples


def warn_of_training(say: Callable[[str], None]) -> None:
    """Prints how many training examples will be cut, if any, for T5's usual dataset function.

    Args:
      say: prints a line for the user.
    """
    name = _resolved(bound("mesh_train_dataset_fn.mixture_or_task_name"))
    lengths = _resolved(bound("run.sequence_length"))
    usual = "mesh_train_dataset_fn" in str(bound("run.train_dataset_fn"))
    if not (usual and isinstance(name, str) and isinstance(lengths, dict)):
        return
    use_cached = _resolved(bound("mesh_train_dataset_fn.use_cached", False))
    for count in cut_examples.of_training(name, lengths, bool(use_cached)):
        warning = count.warning()
        if warning:
            say(warning)


def _resolved(value: object) -> object:
    """Returns what a macro stands for, and any other value as it is."""
    if isinstance(value, gin.config.ConfigurableReference):
        return value.scoped_configurable_fn()
    return value
