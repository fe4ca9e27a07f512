"""Writes the results of an evaluation: scores, inputs, targets and predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.evaluation import label_scores
from hmoe.t5.evaluation.results import Evaluation
from hmoe.t5.evaluation.task_examples import as_text
from hmoe.t5.sessions import metrics_file, run_metrics


def write(
    folder: str,
    evaluations: Sequence[Evaluation],
    numbers: Mapping[str, float],
    with_examples: bool,
) -> None:
    """Writes the results of one checkpoint.

    Args:
      folder: the folder to write to, which is made if it does not exist.
      evaluations: one for each task.
      numbers: metrics of all tasks together, by teacher forcing.
      with_examples: whether to write inputs, targets and predictions to text files as well.
    """
    tf.io.gfile.makedirs(folder)
    scores = {f"eval/{name}": value for name, value in numbers.items() if name != "global_step"}
    for evaluation in evaluations:
        name = evaluation.task.dataset.name
        found = {**_of_task(evaluation), **label_scores.named_scores(evaluation)}
        scores.update({f"eval/{name}/{key}": value for key, value in found.items()})
        if with_examples and evaluation.task.is_decoded:
            for filename, lines in _texts(evaluation).items():
                utils.write_lines_to_file(lines, os.path.join(folder, f"{name}_{filename}"))
    metrics_file.write_evaluation(folder, evaluations[0].step, scores)


def _of_task(evaluation: Evaluation) -> dict[str, float]:
    """Returns a task's own metrics, and its numbers by teacher forcing but for those of experts."""
    names = [metric.name for metric in run_metrics.RUN_METRICS]
    numbers = {name: evaluation.numbers[name] for name in names if name in evaluation.numbers}
    return {**numbers, **evaluation.scores}


def _texts(evaluation: Evaluation) -> dict[str, Sequence[object]]:
    """Returns the lines of each text file, by the end of its name."""
    examples = evaluation.task.examples
    inputs = [as_text(e["inputs_pretokenized"]) for e in examples if "inputs_pretokenized" in e]
    return {
        "inputs": inputs,
        "targets": evaluation.task.targets,
        f"{evaluation.step}_predictions": evaluation.predictions,
    }
