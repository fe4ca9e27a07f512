"""Scores of a task by the labels of its examples, such as their language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from hmoe.t5.data import scores as score_lib
from hmoe.t5.evaluation.results import Evaluation

LABELS = ("language", "kind")

# {label: {value of the label: {score: from 0 to 100, or a count}}}
LabelScores = dict[str, dict[str, dict[str, float]]]


def scores_by_labels(evaluation: Evaluation) -> LabelScores:
    """Returns the scores of a task for each value of each label that all its examples have."""
    if not evaluation.task.examples:  # the outputs of the task are not decoded
        return {}
    labels = [label for label in LABELS if all_have(evaluation.task.examples, label)]
    # Tasks with these labels are hmoe's own, whose targets are text.
    targets = cast(list[str], evaluation.task.targets)
    predictions = cast(list[str], evaluation.predictions)
    return {
        label: score_lib.scores_by_label(evaluation.task.examples, targets, predictions, label)
        for label in labels
    }


def named_scores(evaluation: Evaluation) -> dict[str, float]:
    """Returns the same as numbers of a file of metrics: `language=de/exact_match` and so on."""
    return {
        f"{label}={value}/{score}": number
        for label, by_value in scores_by_labels(evaluation).items()
        for value, scores in by_value.items()
        for score, number in scores.items()
    }


def all_have(examples: Sequence[Mapping[str, object]], field: str) -> bool:
    """Returns whether all examples have a field."""
    return all(field in example for example in examples)
