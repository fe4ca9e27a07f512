"""Metrics of layers for people: names, meanings and values, from the sums of any number of calls.

The tables below define each metric once: its name, what it means, and how it is computed. The
reference page lists them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hmoe.layer import metric_sums

_SHARE = "share, 0 to 1"
_PLACEHOLDER = re.compile(r"<\w+>")


@dataclasses.dataclass(frozen=True)
class LevelNumbers:
    """The decoded sums of a level.

    Attributes:
      losses: loss * weight, weight, and weight * factor, by kind.
      tokens: sums over tokens by name, see `hmoe.layer.metric_sums.TOKEN_FIELDS`; empty where
        metrics are off.
      by_rank: vectors [ranks] of sums over tokens by name; empty without full detail.
      load: [sets of siblings, experts], the demand for each expert; empty where metrics are off.
      lost: real tokens of the layer that were lost at this level.
      layer: sums of the layer by name, see `hmoe.layer.metric_sums.LAYER_FIELDS`.
    """

    losses: Mapping[str, tuple[float, float, float]]
    tokens: Mapping[str, float]
    by_rank: Mapping[str, np.ndarray]
    load: np.ndarray
    lost: float
    layer: Mapping[str, float]

    def mean_loss(self, kind: str) -> float | None:
        """Returns the mean loss of a kind without its coefficient; None if the level has none."""
        if kind not in self.losses:
            return None
        loss, weight, _ = self.losses[kind]
        return _ratio(loss, weight)

    def weighted_loss(self) -> float:
        """Returns the sum of the mean losses times their coefficients."""
        return float(
            sum(
                _ratio(loss, weight) * _ratio(factor, weight)
                for loss, weight, factor in self.losses.values()
            )
        )


@dataclasses.dataclass(frozen=True)
class LayerNumbers:
    """The decoded sums of a layer.

    Attributes:
      levels: metrics of each level by name.
      sums: sums of the layer by name; empty where metrics are off.
      load: [experts], the demand for each innermost expert; empty where metrics are off.
    """

    levels: Sequence[Mapping[str, float]]
    sums: Mapping[str, float]
    load: np.ndarray

    def of_levels(self, name: str) -> list[float]:
        """Returns a metric of all levels."""
        return [level[name] for level in self.levels]


@dataclasses.dataclass(frozen=True)
class LevelMetric:
    """A metric of one level.

    Attributes:
      name: its name; one with a placeholder such as "load_<i>" stands for a name for each index.
      detail: the least detail that includes it: "off", "brief" or "full".
      unit: its unit.
      meaning: what it means.
      formula: how it is computed.
      value: computes it; a vector for a name with a placeholder; None where a level has no such
        metric.
    """

    name: str
    detail: str
    unit: str
    meaning: str
    formula: str
    value: Callable[[LevelNumbers], float | np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class LayerMetric:
    """A metric of one layer, from end to end; see `LevelMetric` for the attributes."""

    name: str
    detail: str
    unit: str
    meaning: str
    formula: str
    value: Callable[[LayerNumbers], float]


@dataclasses.dataclass(frozen=True)
class ModelMetric:
    """A metric of a model, from the metric of that name of its layers.

    Attributes:
      name: its name; "<level>/..." stands for a name for each level.
      detail: see `LevelMetric`.
      unit: see `LevelMetric`.
      meaning: see `LevelMetric`.
      formula: see `LevelMetric`.
      combine: combines the values of all layers that have the metric.
    """

    name: str
    detail: str
    unit: str
    meaning: str
    formula: str
    combine: Callable[[Sequence[float]], float]


LEVEL_METRICS = (
    LevelMetric(
        "auxiliary_loss",
        "off",
        "1 where even",
        "balance loss without its coefficient and factor, a mean over full tokens; calls, groups"
        " and pools count by the number of full tokens in them",
        "X^2 * mean(share of the pool that chose x * mean probability of x) over pools and x;"
        " pools: `hmoe.Level.balance_loss_over`",
        lambda level: level.mean_loss("balance"),
    ),
    LevelMetric(
        "router_z_loss",
        "off",
        "nats^2",
        "size of the logits",
        "mean over full tokens of logsumexp(logits)^2",
        lambda level: level.mean_loss("z"),
    ),
    LevelMetric(
        "second_place_loss",
        "off",
        "1 where even",
        "balance loss of second choices; only with `hmoe.Level.second_place_loss`",
        "as above, with the probabilities that first choices left, scaled to sum to 1",
        lambda level: level.mean_loss("second_place"),
    ),
    LevelMetric(
        "weighted_loss",
        "off",
        "as the loss",
        "what the level adds to the training loss",
        "aux_loss_factor * balance_loss_coef * (auxiliary_loss + second_place_loss / 2)"
        " + router_z_loss_factor * z_loss_coef * router_z_loss",
        lambda level: level.weighted_loss(),
    ),
    LevelMetric(
        "fraction_tokens_dropped",
        "brief",
        _SHARE,
        "tokens of the layer that are left behind because of this level: copies of them came here,"
        " and none found a slot. The sum over levels is the layer's `fraction_tokens_left_behind`",
        "tokens lost here / real tokens of the layer",
        lambda level: _ratio(level.lost, level.layer["tokens"]),
    ),
    LevelMetric(
        "fraction_arrivals_dropped",
        "brief",
        _SHARE,
        "arrivals without a slot at this level. A token arrives at an inner level once for each of"
        " its copies, and one whose other copy finds a slot is not left behind",
        "arrivals without a slot / arrivals, both of real tokens",
        lambda level: _ratio(level.tokens["dropped"], level.tokens["real"]),
    ),
    LevelMetric(
        "expert_usage",
        "brief",
        _SHARE,
        "how full buffers are, not counting those for first-level groups of padding alone",
        "filled slots / (slots * first-level groups with a token / first-level groups)",
        lambda level: _usage(level.tokens, level.layer),
    ),
    LevelMetric(
        "router_confidence",
        "brief",
        "weight",
        "mean weight of filled slots",
        "sum of weights of filled slots / filled slots",
        lambda level: _ratio(level.tokens["confidence"], level.tokens["filled"]),
    ),
    LevelMetric(
        "load_imbalance",
        "brief",
        "times the mean",
        "demand for the most wanted expert over the mean demand, before policy and capacity; each"
        " set of siblings (experts of one outer expert) counts by its demand",
        "X * highest demand / sum of demand",
        lambda level: imbalance_of(level.load),
    ),
    LevelMetric(
        "max_violation",
        "brief",
        "times the mean",
        "MaxVio; 0 where the load is even",
        "load_imbalance - 1",
        lambda level: imbalance_of(level.load) - 1.0,
    ),
    LevelMetric(
        "dead_experts",
        "brief",
        "experts",
        "experts of all sets of siblings that no token chose since the last report",
        "number of experts with demand 0",
        lambda level: float((level.load == 0).sum()),
    ),
    LevelMetric(
        "entropy",
        "full",
        "nats",
        "entropy of the gate; ln X where it is undecided",
        "mean over full tokens of -sum(p * ln(p)); with a sigmoid gate p is divided by its sum",
        lambda level: _ratio(level.tokens["entropy"], level.tokens["full"]),
    ),
    LevelMetric(
        "fraction_routed_rank_<r>",
        "full",
        _SHARE,
        "choices of rank r, 0 for the best, that found a slot",
        "placed choices of rank r of full tokens / full tokens",
        lambda level: _ratios(level.by_rank["placed"], level.tokens["full"]),
    ),
    LevelMetric(
        "gate_mean_rank_<r>",
        "full",
        "weight",
        "mean weight of choices of rank r, before policy and capacity",
        "sum of weights of choices of rank r of full tokens / full tokens",
        lambda level: _ratios(level.by_rank["asked"], level.tokens["full"]),
    ),
    LevelMetric(
        "load_<i>",
        "full",
        _SHARE,
        "the part of the demand that is for expert i",
        "demand for expert i of all sets of siblings / all demand",
        lambda level: _ratios(level.load.sum(axis=0), level.load.sum()),
    ),
)

LAYER_METRICS = (
    LayerMetric(
        "auxiliary_loss",
        "off",
        "1 where even",
        "balance loss of the layer",
        "mean over levels",
        lambda layer: _mean(layer.of_levels("auxiliary_loss")),
    ),
    LayerMetric(
        "router_z_loss",
        "off",
        "nats^2",
        "router z-loss of the layer",
        "mean over levels",
        lambda layer: _mean(layer.of_levels("router_z_loss")),
    ),
    LayerMetric(
        "weighted_loss",
        "off",
        "as the loss",
        "what the layer adds to the training loss",
        "sum over levels",
        lambda layer: _sum(layer.of_levels("weighted_loss")),
    ),
    LayerMetric(
        "fraction_tokens_left_behind",
        "brief",
        _SHARE,
        "real tokens that reach no expert of the innermost level",
        "tokens without an innermost slot / real tokens",
        lambda layer: _ratio(layer.sums["left_behind"], layer.sums["tokens"]),
    ),
    LayerMetric(
        "expert_usage",
        "brief",
        _SHARE,
        "how full the experts' buffers are",
        "filled innermost slots / innermost slots, these counted as for a level",
        lambda layer: _usage(layer.sums, layer.sums),
    ),
    LayerMetric(
        "router_confidence",
        "brief",
        "weight",
        "mean weight of the experts' outputs",
        "sum over filled innermost slots of the product of weights on the way / filled innermost"
        " slots",
        lambda layer: _ratio(layer.sums["confidence"], layer.sums["filled"]),
    ),
    LayerMetric(
        "load_imbalance",
        "brief",
        "times the mean",
        "demand for the most wanted of all experts of the layer over the mean demand",
        "experts * highest demand / sum of demand, at the innermost level",
        lambda layer: imbalance_of(layer.load[None]),
    ),
    LayerMetric(
        "max_violation",
        "brief",
        "times the mean",
        "MaxVio of all experts",
        "load_imbalance - 1",
        lambda layer: imbalance_of(layer.load[None]) - 1.0,
    ),
    LayerMetric(
        "dead_experts",
        "brief",
        "experts",
        "experts of the layer that no token chose since the last report",
        "number of innermost experts with demand 0",
        lambda layer: float((layer.load == 0).sum()),
    ),
)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _sum(values: Sequence[float]) -> float:
    return float(np.sum(values))


# Of a layer's metrics, those that a model has too.
_OF_LAYERS = (
    "auxiliary_loss",
    "router_z_loss",
    "fraction_tokens_left_behind",
    "expert_usage",
    "router_confidence",
    "load_imbalance",
    "dead_experts",
)
_OF_LEVELS = ("fraction_tokens_dropped", "max_violation")

MODEL_METRICS = (
    *(
        ModelMetric(
            each.name, each.detail, each.unit, "mean of the layers", "mean over layers", _mean
        )
        for each in LAYER_METRICS
        if each.name in _OF_LAYERS
    ),
    *(
        ModelMetric(
            f"<level>/{each.name}",
            each.detail,
            each.unit,
            "mean of the levels of this name",
            "mean over layers that have the level",
            _mean,
        )
        for each in LEVEL_METRICS
        if each.name in _OF_LEVELS
    ),
    ModelMetric(
        "weighted_loss",
        "off",
        "as the loss",
        "what all layers add to the cross entropy",
        "sum over layers",
        _sum,
    ),
)


def summarize(sums: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Computes the metrics of a model from the sums of any number of calls.

    Args:
      sums: for each layer ("encoder/block_000/layer_001"), the sums of its calls by name.

    Returns:
      `experts/...` for the model; `<layer>/...` for a layer, from end to end; `<layer>/<level>/...`
      for a level, over the tokens that arrive there.

    Raises:
      ValueError: there is nothing to summarize.
    """
    if not sums:
        raise ValueError(
            "no metrics of experts were found: no layer of the model is an hmoe.MoELayer"
        )
    by_layer = {layer: _summarize_layer(of_layer) for layer, of_layer in sums.items()}
    named = {
        f"{layer}/{name}": value
        for layer, of_layer in by_layer.items()
        for name, value in of_layer.items()
    }
    for metric in MODEL_METRICS:
        pattern = re.compile(_PLACEHOLDER.sub(r"\\w+", metric.name))
        names = dict.fromkeys(
            name for of_layer in by_layer.values() for name in of_layer if pattern.fullmatch(name)
        )
        for name in names:
            values = [of_layer[name] for of_layer in by_layer.values() if name in of_layer]
            named[f"experts/{name}"] = metric.combine(values)
    return named


def _summarize_layer(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Computes the metrics of a layer, "<name>" and "<level>/<name>"."""
    levels = levels_of(sums)
    has_metrics = metric_sums.LAYER in sums
    of_layer = metric_sums.decode_layer(sums[metric_sums.LAYER], levels) if has_metrics else {}
    by_level = {level: _summarize_level(level, sums, of_layer) for level in levels}
    # The innermost level knows every expert of the layer.
    load = load_of(sums, levels[-1]).reshape([-1]) if has_metrics else np.zeros([0])
    numbers = LayerNumbers(list(by_level.values()), of_layer, load)
    named = {
        f"{level}/{name}": value
        for level, of_level in by_level.items()
        for name, value in of_level.items()
    }
    for metric in LAYER_METRICS:
        if metric.detail == "off" or has_metrics:
            named[metric.name] = metric.value(numbers)
    return named


def levels_of(sums: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of a layer's levels, outermost first (in any order without metrics)."""
    levels = [
        key.split("/")[0] for key in sums if key == metric_sums.losses_name(key.split("/")[0])
    ]
    if metric_sums.LAYER in sums:
        # A level's load has one more dimension than that of the level above. The order of the keys
        # means nothing, since sessions sort them.
        levels.sort(key=lambda level: np.ndim(sums[metric_sums.load_name(level)]))
    return levels


def _summarize_level(
    level: str, sums: Mapping[str, np.ndarray], of_layer: Mapping[str, float]
) -> dict[str, float]:
    """Computes the metrics of a level by name."""
    has_metrics = metric_sums.tokens_name(level) in sums
    tokens = metric_sums.TokenNumbers({}, {})
    if has_metrics:
        tokens = metric_sums.decode_tokens(sums[metric_sums.tokens_name(level)])
    numbers = LevelNumbers(
        metric_sums.decode_losses(sums[metric_sums.losses_name(level)]),
        tokens.sums,
        tokens.by_rank,
        load_of(sums, level) if has_metrics else np.zeros([0, 0]),
        of_layer.get(f"lost/{level}", 0.0),
        of_layer,
    )
    details = {"off": True, "brief": has_metrics, "full": "entropy" in tokens.sums}
    named: dict[str, float] = {}
    for metric in LEVEL_METRICS:
        value = metric.value(numbers) if details[metric.detail] else None
        if isinstance(value, np.ndarray):
            for number, each in enumerate(value):
                named[_PLACEHOLDER.sub(str(number), metric.name)] = float(each)
        elif value is not None:
            named[metric.name] = value
    return named


def load_of(sums: Mapping[str, np.ndarray], level: str) -> np.ndarray:
    """Returns [sets of siblings, experts], the demand for each expert of a level."""
    load = np.asarray(sums[metric_sums.load_name(level)], np.float64)
    return load.reshape([-1, load.shape[-1]])


def _usage(numbers: Mapping[str, float], of_layer: Mapping[str, float]) -> float:
    """Returns how full slots are, not counting groups of padding, which fill up a last batch."""
    in_use = _ratio(of_layer["groups"], of_layer["groups_in_use"])
    return _ratio(numbers["filled"], numbers["slots"]) * in_use


def imbalance_of(load: np.ndarray) -> float:
    """Returns X * highest / sum of a load [sets of siblings, X], a mean over the sets by load."""
    totals = load.sum(axis=1)
    if not totals.sum():
        return 1.0
    highest = load.max(axis=1) * load.shape[1] / np.maximum(totals, 1.0)
    return float((highest * totals).sum() / totals.sum())


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0


def _ratios(parts: np.ndarray, whole: float) -> np.ndarray:
    return np.array([_ratio(part, whole) for part in parts])
