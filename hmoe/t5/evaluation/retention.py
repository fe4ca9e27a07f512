"""Scores examples with experts left out: what of a model does each label need?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from hmoe.analysis.retention_runs import RetentionRun
from hmoe.analysis.retention_scores import RetentionScore
from hmoe.analysis.traces import Manifest
from hmoe.compat.stack import tf
from hmoe.t5.evaluation.results import TaskExamples
from hmoe.t5.evaluation.task_examples import as_text
from hmoe.t5.sessions.estimator import SessionEstimator
from hmoe.t5.sessions.estimator_protocol import InputFn

# Ids [rows, length], by feature.
Rows = dict[str, np.ndarray]


def examples_by_label(
    tasks: Sequence[TaskExamples], input_fns: Sequence[InputFn], label: str, limit: int
) -> dict[str, Rows]:
    """Returns the ids of the first examples of each value of a label.

    Args:
      tasks: the tasks, whose examples have labels where their outputs are decoded.
      input_fns: reads each of them, in whole batches.
      label: the name of the label.
      limit: how many examples of each value.
    """
    found: dict[str, list[Rows]] = {}
    for task, input_fn in zip(tasks, input_fns):
        for example, row in zip(task.examples, _rows(input_fn)):
            if label in example:
                found.setdefault(as_text(example[label]), []).append(row)
    return {
        value: {name: np.stack([row[name] for row in rows[:limit]]) for name in rows[0]}
        for value, rows in found.items()
    }


def _rows(input_fn: InputFn) -> Iterator[Rows]:
    with tf.Graph().as_default():
        for batch in tfds.as_numpy(input_fn({})):
            for row in range(len(batch["targets"])):
                yield {name: batch[name][row] for name in ("inputs", "targets")}


def score(
    estimator: SessionEstimator,
    path: str,
    manifest: Manifest,
    runs: Sequence[RetentionRun],
    examples: Mapping[str, Rows],
    done: Callable[[int], None],
) -> list[RetentionScore]:
    """Scores the examples of each run's label with its experts.

    As in `hmoe score`, no token is dropped, so that fewer experts have room for all.

    Args:
      estimator: the model.
      path: the checkpoint's path prefix.
      manifest: that of the trace which the runs are made from.
      runs: the runs.
      examples: ids by label, those of the runs among them.
      done: is told of each run that is done, by the number of runs so far.

    Returns:
      A score for each run.
    """
    size = estimator.settings.batch_size
    batches = estimator.score_with_kept(_input_fn(manifest, runs, examples, size), path)
    found = []
    for run in runs:
        num_rows = len(examples[run.label]["targets"])
        total, num_targets = 0.0, 0
        for begin in range(0, num_rows, size):
            likelihoods, targets = next(batches)
            total -= float(likelihoods[: num_rows - begin].sum())
            num_targets += int(np.count_nonzero(targets[: num_rows - begin]))
        loss = total / num_targets
        fields: dict[str, Any] = {"seed": run.seed, "group": run.group, "layer": run.layer}
        found.append(RetentionScore(run.label, run.kept, run.share, loss, num_targets, **fields))
        done(len(found))
    for _ in batches:  # ends the session
        pass
    return found


def _input_fn(
    manifest: Manifest, runs: Sequence[RetentionRun], examples: Mapping[str, Rows], size: int
) -> InputFn:
    """Returns a function that reads the batches of all runs, each with its kept experts."""

    def batches() -> Iterator[tuple[Rows, dict[str, tuple[np.ndarray, ...]]]]:
        for run in runs:
            rows = examples[run.label]
            for begin in range(0, len(rows["targets"]), size):
                yield (
                    {n: _filled(ids[begin : begin + size], size) for n, ids in rows.items()},
                    {**run.masks},
                )

    any_rows = next(iter(examples.values()))
    features = {
        name: tf.TensorSpec([size, ids.shape[1]], tf.int32) for name, ids in any_rows.items()
    }
    kept = {
        layer.name: tuple(
            tf.TensorSpec([level.num_experts for level in layer.levels[: depth + 1]], tf.float32)
            for depth in range(len(layer.levels))
        )
        for layer in manifest.layers
    }
    signature = (features, kept)
    return lambda _: tf.data.Dataset.from_generator(batches, output_signature=signature)


def _filled(ids: np.ndarray, size: int) -> np.ndarray:
    """Returns ids with rows of padding up to the size of a batch."""
    return np.pad(ids, [(0, size - len(ids)), (0, 0)]).astype(np.int32)
