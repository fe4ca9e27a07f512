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
      examples: the examples, of a task whose outputs are decoded; otherwise none are kept.
      targets: the postprocessed targets, as the metrics take them, one for each of `examples`.
      num_examples: number of examples, kept or not.
      longest: length of the longest inputs and of the longest targets, in tokens, by feature.
    """

    dataset: mtf_dataset.EvalDataset
    examples: list[EvalExample]
    targets: list[object]
    num_examples: int
    longest: Mapping[str, int]

    @property
    def is_decoded(self) -> bool:
        """Whether the model's outputs are decoded and scored: the task has inputs and metrics."""
        return bool(self.dataset.metric_fns) and "inputs" in self.longest


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The evaluation of one task at one checkpoint.

    Attributes:
      task: the task's examples.
      step: training step of the checkpoint.
      numbers: the task's metrics by teacher forcing, by name.
      outputs: the decoded text for each example; empty if the task is not decoded.
      predictions: the postprocessed outputs, as the metrics take them.
      scores: the task's own metrics, by name.
    """

    task: TaskExamples
    step: int
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    outputs: list[str] = dataclasses.field(default_factory=list)
    predictions: list[object] = dataclasses.field(default_factory=list)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
