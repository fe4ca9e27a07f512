"""From sums to the numbers that users read."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hmoe.layer import metrics

HostSums = dict[tuple[str, str], np.ndarray]


class SumCollector:
    """Adds up sums over steps or batches, in float64."""

    def __init__(self) -> None:
        self.sums: HostSums = {}
        self.count = 0

    def add(self, sums: Mapping[tuple[str, str], np.ndarray]) -> None:
        """Adds the sums of one step or batch."""
        self.count += 1
        for key, value in sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + np.asarray(value, np.float64)

    def model(self, name: str) -> float:
        """A sum of the model as a whole."""
        return float(self.sums[("", name)])


def cross_ent_loss(collector: SumCollector) -> float:
    """Cross entropy without output z-loss, in nats a target; padding counts nowhere."""
    return _ratio(collector.model("cross_entropy"), collector.model("trained_targets"))


def check_probabilities(below_zero: float, when: str) -> None:
    """Checks that no target has a probability above 1.

    Args:
      below_zero: of `forward.TargetLosses`, summed.
      when: for the message, such as "at step 3".

    Raises:
      ValueError: a sum over the mesh must be wrong.
    """
    if below_zero > 0:
        raise ValueError(
            f"a target has a probability above 1 {when}: cross entropies are below 0 by "
            f"{below_zero:g} in all, so a sum over the mesh is wrong, and with it every number. "
            "Nothing was saved. Compare with one device (utils.run.mesh_shape = '' and "
            "utils.run.layout_rules = ''), and report it with the mesh and the layout"
        )


def expert_measures(sums: HostSums) -> dict[str, float]:
    """The expert layers' metrics by their final names; none for a model without such layers."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for (layer, name), value in sums.items():
        if layer:
            layers.setdefault(layer, {})[name] = value
    return dict(metrics.summarize(layers)) if layers else {}


def training_measures(collector: SumCollector) -> dict[str, float]:
    """Means over the steps added: loss, cross_ent_loss, learning_rate, and the experts' metrics."""
    steps = collector.count
    return {
        "loss": collector.model("loss") / steps,
        "cross_ent_loss": cross_ent_loss(collector),
        "learning_rate": collector.model("learning_rate") / steps,
        **expert_measures(collector.sums),
    }


def evaluation_measures(collector: SumCollector) -> dict[str, float]:
    """Numbers of a whole evaluation.

    Returns:
      loss, as T5 trains on it but for the output z-loss: cross entropy by all target positions
      of rows that have a target, and losses of layers; cross_ent_loss; upstream's
      neg_log_perplexity, token_accuracy, sequence_accuracy, mean_label and num_eval_tokens; and
      the experts' metrics.

    Raises:
      ValueError: no target was evaluated.
    """
    if not collector.count or not collector.model("targets"):
        raise ValueError("no target to evaluate: the data is empty, or all of it is padding")
    targets = collector.model("targets")
    experts = expert_measures(collector.sums)
    loss = _ratio(collector.model("cross_entropy"), collector.model("denominator"))
    loss += collector.model("other_losses") / targets + experts.get("experts/weighted_loss", 0.0)
    return {
        "loss": loss,
        "cross_ent_loss": cross_ent_loss(collector),
        "neg_log_perplexity": collector.model("log_likelihood") / targets,
        "token_accuracy": collector.model("right") / targets,
        "sequence_accuracy": collector.model("right_rows") / collector.model("rows"),
        "mean_label": collector.model("ids") / targets,
        "num_eval_tokens": targets,
        **experts,
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
