"""The metrics of a run: their names, units and meanings, and how sums become them.

The metrics of the expert layers are named and computed by `hmoe.layer.metrics`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from hmoe.layer import metrics
from hmoe.t5.graphs.sums import SumKey, model_sum

HostSums = dict[SumKey, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RunMetric:
    """A metric of a run as a whole, apart from those of its expert layers.

    Attributes:
      name: its name in `metrics.jsonl` and TensorBoard.
      where: "training", "evaluation" or "both".
      unit: the unit of its values.
      meaning: what it measures.
    """

    name: str
    where: Literal["training", "evaluation", "both"]
    unit: str
    meaning: str


STEP = RunMetric("step", "training", "steps", "training steps that are done")
TIME = RunMetric("time", "training", "seconds", "seconds since the start of 1970")
LOSS = RunMetric(
    "loss",
    "both",
    "nats per target position",
    "the loss that T5 minimises: cross entropy divided by all target positions, padding included, "
    "plus the weighted losses of layers and, in training, the output z-loss",
)
CROSS_ENT_LOSS = RunMetric(
    "cross_ent_loss",
    "both",
    "nats per token",
    "cross entropy of the targets alone, divided by the targets that are not padding",
)
LEARNING_RATE = RunMetric(
    "learning_rate", "training", "factor", "mean of the schedule's values since the last report"
)
STEPS_PER_SECOND = RunMetric(
    "steps_per_second", "training", "steps per second", "speed since the last report"
)
TOKENS_PER_SECOND = RunMetric(
    "tokens_per_second",
    "training",
    "tokens per second",
    "tokens of inputs and targets since the last report, padding not counted",
)
NEG_LOG_PERPLEXITY = RunMetric(
    "neg_log_perplexity",
    "evaluation",
    "nats per token",
    "mean log likelihood of the targets that are not padding",
)
TOKEN_ACCURACY = RunMetric(
    "token_accuracy",
    "evaluation",
    "share, 0 to 1",
    "targets, without padding, to which the model gives the highest probability",
)
SEQUENCE_ACCURACY = RunMetric(
    "sequence_accuracy",
    "evaluation",
    "share, 0 to 1",
    "rows in which every target has the highest probability",
)
MEAN_LABEL = RunMetric("mean_label", "evaluation", "token id", "mean id of the targets")
NUM_EVAL_TOKENS = RunMetric(
    "num_eval_tokens", "evaluation", "tokens", "targets that are not padding"
)

RUN_METRICS: tuple[RunMetric, ...] = (
    STEP,
    TIME,
    LOSS,
    CROSS_ENT_LOSS,
    LEARNING_RATE,
    STEPS_PER_SECOND,
    TOKENS_PER_SECOND,
    NEG_LOG_PERPLEXITY,
    TOKEN_ACCURACY,
    SEQUENCE_ACCURACY,
    MEAN_LABEL,
    NUM_EVAL_TOKENS,
)

# Steps whose demand is added up.
WINDOW = 100
VIOLATION_OF_STEPS = RunMetric(
    "max_violation_of_steps",
    "training",
    "times the mean",
    "mean of the MaxVio of single steps since the last report; with metrics brief or full, and not"
    " on TPUs, where the host does not see single steps",
)
VIOLATION_OF_WINDOW = RunMetric(
    f"max_violation_of_{WINDOW}_steps",
    "training",
    "times the mean",
    f"MaxVio of the demand of {WINDOW} steps together, up to the last multiple of {WINDOW} before"
    " the report, in the first report after them; with metrics brief or full, and on TPUs where"
    f" iterations_per_loop divides {WINDOW}",
)

# Those of a run that each level has ("<layer>/<level>/...") and each layer ("<layer>/...").
LOAD_METRICS: tuple[RunMetric, ...] = (VIOLATION_OF_STEPS, VIOLATION_OF_WINDOW)


class SumCollector:
    """Adds up sums over steps or batches, in float64.

    Attributes:
      sums: the totals.
      count: number of steps or batches.
    """

    def __init__(self) -> None:
        self.sums: HostSums = {}
        self.count = 0

    def add(self, sums: Mapping[SumKey, np.ndarray], count: int = 1) -> None:
        """Adds the sums of one step or batch, or the totals of so many."""
        self.count += count
        for key, value in sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + np.asarray(value, np.float64)

    def fits(self, sums: Mapping[SumKey, np.ndarray]) -> bool:
        """Returns whether sums have the names and shapes of the totals."""
        return self.sums.keys() == sums.keys() and all(
            np.shape(total) == np.shape(sums[key]) for key, total in self.sums.items()
        )

    def of_model(self, name: str) -> float:
        """Returns the total of a sum over the whole model."""
        return float(self.sums[model_sum(name)])


def cross_ent_loss(collector: SumCollector) -> float:
    """Returns the cross entropy without output z-loss, in nats per target without padding."""
    return _ratio(collector.of_model("cross_entropy"), collector.of_model("trained_targets"))


def sums_by_layer(sums: Mapping[SumKey, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the sums of each expert layer by name; empty for a dense model."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for (layer, name), value in sums.items():
        if layer:
            layers.setdefault(layer, {})[name] = value
    return layers


def expert_metrics(sums: HostSums) -> dict[str, float]:
    """Returns the metrics of the expert layers, by name; empty for a dense model."""
    layers = sums_by_layer(sums)
    return dict(metrics.summarize(layers)) if layers else {}


def training_metrics(collector: SumCollector) -> dict[str, float]:
    """Returns the metrics of the collected training steps, but for their speed."""
    steps = collector.count
    return {
        LOSS.name: collector.of_model("loss") / steps,
        CROSS_ENT_LOSS.name: cross_ent_loss(collector),
        LEARNING_RATE.name: collector.of_model("learning_rate") / steps,
        **expert_metrics(collector.sums),
    }


def evaluation_metrics(collector: SumCollector) -> dict[str, float]:
    """Returns the metrics of a whole evaluation.

    The loss divides the cross entropy by all target positions of rows that have a target, so that
    rows of padding which fill up the last batch change nothing.

    Raises:
      ValueError: no target was evaluated.
    """
    if not collector.count or not collector.of_model("targets"):
        raise ValueError("no target to evaluate: the data is empty, or all of it is padding")
    targets = collector.of_model("targets")
    experts = expert_metrics(collector.sums)
    loss = _ratio(collector.of_model("cross_entropy"), collector.of_model("denominator"))
    loss += collector.of_model("other_losses") / targets + experts.get("experts/weighted_loss", 0.0)
    return {
        LOSS.name: loss,
        CROSS_ENT_LOSS.name: cross_ent_loss(collector),
        NEG_LOG_PERPLEXITY.name: collector.of_model("log_likelihood") / targets,
        TOKEN_ACCURACY.name: collector.of_model("right") / targets,
        SEQUENCE_ACCURACY.name: collector.of_model("right_rows") / collector.of_model("rows"),
        MEAN_LABEL.name: collector.of_model("ids") / targets,
        NUM_EVAL_TOKENS.name: targets,
        **experts,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
