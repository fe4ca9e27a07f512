"""The results of an evaluation: examples, outputs, predictions and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from mesh_tensorflow.transformer import dataset as mtf_dataset

# Ids, text and labels of one example, by field.
EvalExample = Mapping[str, np.ndarray | bytes]


@dataclasses.dataclass(frozen=True)
class TaskExamples:
    """The examples of one task, as T5's evaluation has them.

    Attributes:
      dataset: T5's description of the task: its name, data, postprocessing and metrics.
      examples: the examples.
      targets: the postprocessed targets, as the metrics take them.
    """

    dataset: mtf_dataset.EvalDataset
    examples: list[EvalExample]
    targets: list[object]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The evaluation of one task at one checkpoint.

    Attributes:
      task: the task's examples.
      step: training step of the checkpoint.
      outputs: the decoded text for each example.
      predictions: the postprocessed outputs, as the metrics take them.
      scores: the task's own metrics, by name.
    """

    task: TaskExamples
    step: int
    outputs: list[str]
    predictions: list[object]
    scores: dict[str, float]
