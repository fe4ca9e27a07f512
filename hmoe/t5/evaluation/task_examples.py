"""Loads the held-out examples of the tasks that are to be evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow_datasets as tfds
from mesh_tensorflow.transformer import dataset as mtf_dataset

from hmoe.compat.stack import tf
from hmoe.t5.evaluation.results import EvalExample, TaskExamples
from hmoe.t5.graphs.model_settings import Vocabulary

# Returns T5's descriptions of the tasks of a split.
EvalDatasetFn = Callable[..., Sequence[mtf_dataset.EvalDataset]]


def load_tasks(
    eval_dataset_fn: EvalDatasetFn | None,
    sequence_length: dict[str, int] | None,
    vocabulary: Vocabulary,
    split: str,
) -> list[TaskExamples]:
    """Loads all examples of the tasks that have metrics.

    Raises:
      ValueError: there is no dataset function, or no example to evaluate.
    """
    if eval_dataset_fn is None:
        raise ValueError(
            "evaluation needs utils.run.eval_dataset_fn; in gin, for example: utils.run."
            "eval_dataset_fn = @t5.models.mesh_transformer.mesh_eval_dataset_fn"
        )
    datasets = eval_dataset_fn(
        sequence_length=sequence_length, vocabulary=vocabulary, dataset_split=split
    )
    tasks = []
    for dataset in datasets:
        dataset = mtf_dataset.EvalDataset(*dataset)
        if dataset.metric_fns:
            with tf.Graph().as_default():
                examples = list(tfds.as_numpy(dataset.dataset_fn()))
            targets = [_target(dataset, example) for example in examples]
            tasks.append(TaskExamples(dataset, examples, targets))
    if not any(task.examples for task in tasks):
        names = ", ".join(repr(dataset[0]) for dataset in datasets) or "none"
        raise ValueError(
            f"nothing to evaluate: no task with metrics has examples in split {split!r} (tasks: "
            f"{names}); name another split with utils.run.dataset_split"
        )
    return [task for task in tasks if task.examples]


def _target(dataset: mtf_dataset.EvalDataset, example: EvalExample) -> object:
    """Returns the target of an example as the metrics take it."""
    text = as_text(example["targets_pretokenized"])
    return dataset.postprocess_fn(text, example=example, is_target=True)


def as_text(value: str | bytes | np.ndarray) -> str:
    """Decodes TensorFlow's bytes; text stays as it is."""
    plain = value.item() if hasattr(value, "item") else value
    return plain.decode("utf-8", errors="replace") if isinstance(plain, bytes) else str(plain)


def longest(tasks: Sequence[TaskExamples]) -> dict[str, int]:
    """Returns the length of the longest inputs and of the longest targets, in tokens."""
    return {
        name: max(len(example[name]) for task in tasks for example in task.examples)
        for name in ("inputs", "targets")
    }
