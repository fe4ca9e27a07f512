"""Counts the examples of tasks that are longer than the model reads, before they are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import seqio
import tensorflow_datasets as tfds

from hmoe.compat.stack import tf
from hmoe.t5.data import files, tasks
from hmoe.t5.data.cut_counts import CutCount

# Examples of each task that are looked at, where counting all would take as long as training.
NUM_COUNTED = 1_000


def of_training(
    mixture_or_task: str, lengths: Mapping[str, int], use_cached: bool = False
) -> list[CutCount]:
    """Counts the training examples that are cut.

    Args:
      mixture_or_task: name of the task or mixture.
      lengths: tokens that the model reads, by feature.
      use_cached: whether the tasks' cached data is read.

    Returns:
      The counts: of all examples of a user's own file, and of the first ones of other tasks.
    """
    counts = []
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(mixture_or_task)):
        if files.is_registered(task.name):
            counts += files.count_cut(task.name, lengths)
        elif not tasks.fits(task.name, lengths):
            counts += _of_first(task, lengths, use_cached)
    return counts


def _of_first(task: seqio.Task, lengths: Mapping[str, int], use_cached: bool) -> list[CutCount]:
    """Counts among the first examples of a task."""

    def load() -> tf.data.Dataset:
        return task.get_dataset(None, split="train", shuffle=False, use_cached=use_cached)

    return count(load, lengths, f"of the first examples of {task.name}", NUM_COUNTED)


def count(
    load: Callable[[], tf.data.Dataset],
    lengths: Mapping[str, int],
    where: str,
    at_most: int = -1,
) -> list[CutCount]:
    """Counts among the examples of a dataset.

    Args:
      load: makes a dataset of examples that are not cut.
      lengths: tokens that the model reads, by feature.
      where: what the examples are of, for the user.
      at_most: number of examples to look at; -1 for all.

    Returns:
      A count for each feature; none if the examples have no length but the model's, as those of
      span corruption, which fills it.
    """
    counts = [CutCount(f"{name} {where}", name, limit) for name, limit in lengths.items()]
    with tf.Graph().as_default():
        try:
            dataset = load()
        except (TypeError, KeyError, ValueError, AttributeError):
            return []
        for example in tfds.as_numpy(dataset.take(at_most)):
            for each in counts:
                if each.feature in example:
                    each.add(len(example[each.feature]))
    return counts
