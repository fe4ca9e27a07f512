"""What an evaluation has found: examples, answers and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mesh_tensorflow.transformer import dataset as mtf_dataset


@dataclasses.dataclass(frozen=True)
class TaskExamples:
    """The examples of one task, as T5's evaluation holds them.

    Attributes:
        dataset: T5's description: name, data, what turns text into what metrics take, metrics.
        examples: ids and text of each, by field.
        targets: what the metrics take as right.
    """

    dataset: mtf_dataset.EvalDataset
    examples: list[Mapping[str, Any]]
    targets: list[Any]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One task evaluated at one checkpoint.

    Attributes:
        task: its examples.
        step: of the checkpoint.
        answers: the model's, as text.
        predictions: the answers, as the metrics take them.
        scores: of the task's own metrics, by name.
    """

    task: TaskExamples
    step: int
    answers: list[str]
    predictions: list[Any]
    scores: dict[str, float]
