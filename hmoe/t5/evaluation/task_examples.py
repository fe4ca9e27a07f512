"""Loads the held-out examples of the tasks that are to be evaluated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow_datasets as tfds
from mesh_tensorflow.transformer import dataset as mtf_dataset
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.data import cut_examples
from hmoe.t5.data.files import FEATURES
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
    """Loads the tasks that have examples; the examples themselves where outputs are scored.

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
    tasks = [_load(mtf_dataset.EvalDataset(*dataset), vocabulary) for dataset in datasets]
    if not any(task.num_examples for task in tasks):
        names = ", ".join(repr(task.dataset.name) for task in tasks) or "none"
        raise ValueError(
            f"nothing to evaluate: no task has examples in split {split!r} (tasks: {names}); name "
            "another split with utils.run.dataset_split"
        )
    return [task for task in tasks if task.num_examples]


def _load(dataset: mtf_dataset.EvalDataset, vocabulary: Vocabulary) -> TaskExamples:
    """Reads a task's examples once, and keeps those whose outputs will be scored."""
    kept: list[EvalExample] = []
    longest: dict[str, int] = {}
    count = 0
    with tf.Graph().as_default():
        for example in tfds.as_numpy(dataset.dataset_fn()):
            count += 1
            for name in FEATURES:
                if name in example:
                    length = int(np.count_nonzero(example[name]))
                    longest[name] = max(longest.get(name, 0), length)
            if dataset.metric_fns and "inputs" in example:
                kept.append(_with_text(example, vocabulary))
    targets = [_target(dataset, example) for example in kept]
    return TaskExamples(dataset, kept, targets, count, longest)


def _with_text(example: EvalExample, vocabulary: Vocabulary) -> EvalExample:
    """Adds the text of inputs and targets, decoded from their ids, where a task left it out."""
    text = {}
    for name, own in vocabularies(vocabulary).items():
        if name in example and f"{name}_pretokenized" not in example:
            ids = [int(i) for i in np.ravel(example[name]) if i > 0]
            text[f"{name}_pretokenized"] = own.decode(ids).encode("utf-8")
    return {**example, **text}


def vocabularies(vocabulary: Vocabulary) -> dict[str, seqio.Vocabulary]:
    """Returns a model's vocabulary for each of the features that hold a task's tokens."""
    of = (utils.inputs_vocabulary(vocabulary), utils.targets_vocabulary(vocabulary))
    return dict(zip(FEATURES, of))


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
    known = {name for task in tasks for name in task.longest}
    return {name: max(task.longest.get(name, 0) for task in tasks) for name in sorted(known)}


def cut_warnings(tasks: Sequence[TaskExamples], lengths: Mapping[str, int]) -> list[str]:
    """Returns a warning for the inputs and targets of each task that are cut."""
    warnings = []
    for task in tasks:
        # What is not as long as the model reads is not cut, and need not be read once more.
        if any(task.longest.get(name, 0) >= lengths.get(name, 0) for name in FEATURES):
            load = functools.partial(task.dataset.dataset_fn, sequence_length=None)
            counts = cut_examples.count(load, lengths, f"of {task.dataset.name}")
            warnings += [warning for count in counts if (warning := count.warning())]
    return warnings
