"""What a layer tells about itself: sums and counts on the devices, names on the host.

On the devices everything is a sum or a count, so that microbatches, steps and
evaluation batches add up; `summarize` divides once, at the end.
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hmoe.assignment import Assignment
from hmoe.compat.stack import mtf, tf
from hmoe.routers.base import Scores

# Fields of "<level>/tokens", before the two blocks of one field per choice.
_LEVEL_FIELDS = ("full", "arrivals", "left_behind", "filled", "slots", "confidence", "entropy")
# Fields of "reached".
_LAYER_FIELDS = ("tokens", "left_behind", "filled", "slots", "confidence")

Sums = dict[str, mtf.Tensor]


def level_sums(
    name: str,
    scores: Scores,
    assignment: Assignment,
    importance: mtf.Tensor,
    outer_expert_dims: list[mtf.Dimension],
) -> Sums:
    """Sums over the groups of one level.

    Args:
      name: of the level.
      scores: of the level.
      assignment: of the level.
      importance: float32 [*outer, ..., S].
      outer_expert_dims: experts of the levels above; kept apart in the load.

    Returns:
      `<name>/tokens` [*outer, 7 + 2 K]: the fields above, then choices placed by
      rank, then weights asked for by rank; `<name>/load` [*outer, X]: demand for each
      expert before policy and capacity, of all tokens that are not padding.
    """
    choices = assignment.choices
    ranks, experts = choices.choice_dim.size, scores.experts_dim.size
    slots = float(experts * assignment.capacity_dim.size)

    def add_up(*inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        probabilities, importance, expert, rank, demand, weight, kept = inputs
        real = tf.cast(importance > 0, tf.float32)
        full = tf.cast(tf.equal(importance, 1.0), tf.float32)
        reached = tf.reduce_max(kept, axis=-1)
        entropy = -tf.reduce_sum(probabilities * tf.math.log(probabilities + 1e-9), axis=-1)
        # [..., S, K, K]: rank of each choice of a full token.
        by_rank = tf.one_hot(rank, ranks, dtype=tf.float32) * full[..., None, None]
        scalars = [full, real, real * (1.0 - reached), tf.reduce_sum(kept, -1),
                   tf.zeros_like(full), tf.reduce_sum(kept * weight, -1), entropy * full]
        fields = tf.reduce_sum(tf.stack(scalars, axis=-1), axis=-2)
        fields += tf.one_hot(_LEVEL_FIELDS.index("slots"), len(_LEVEL_FIELDS)) * slots
        routed = tf.reduce_sum(by_rank * kept[..., None], axis=[-3, -2])
        gates = tf.reduce_sum(by_rank * (weight * demand)[..., None], axis=[-3, -2])
        load = tf.reduce_sum(
            tf.one_hot(expert, experts, dtype=tf.float32) * demand[..., None], axis=[-3, -2])
        return tf.concat([fields, routed, gates], axis=-1), load

    groups = importance.shape.dims[:-1]
    fields = mtf.Dimension("metric_fields", len(_LEVEL_FIELDS) + 2 * ranks)
    inputs = [scores.probabilities, importance, choices.expert, choices.rank, choices.demand,
              choices.weight, assignment.kept]
    tokens, load = mtf.slicewise(
        add_up, inputs,
        output_shape=[mtf.Shape(groups + [fields]), mtf.Shape(groups + [scores.experts_dim])],
        output_dtype=[tf.float32, tf.float32], splittable_dims=groups, grad_function=0,
        name="level_sums")
    return {
        f"{name}/tokens": mtf.reduce_sum(tokens, output_shape=outer_expert_dims + [fields]),
        f"{name}/load": mtf.reduce_sum(
            load, output_shape=outer_expert_dims + [scores.experts_dim]),
    }


def reached_sums(reached: mtf.Tensor, importance: mtf.Tensor, num_slots: int) -> Sums:
    """Sums from end to end of a layer.

    Args:
      reached: float32 [..., S, 2]: innermost slots that a token fills, and the sum of
        the products of weights on the way to them.
      importance: float32 [..., S].
      num_slots: innermost slots of the layer.

    Returns:
      `reached` [5]: see `_LAYER_FIELDS`.
    """
    groups = importance.shape.dims[:-1]
    share = float(num_slots) / float(np.prod([dim.size for dim in groups]))

    def add_up(reached: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
        real = tf.cast(importance > 0, tf.float32)
        left = real * tf.cast(tf.equal(reached[..., 0], 0.0), tf.float32)
        scalars = tf.stack(
            [real, left, reached[..., 0], tf.zeros_like(real), reached[..., 1]], axis=-1)
        return (tf.reduce_sum(scalars, axis=-2)
                + tf.one_hot(_LAYER_FIELDS.index("slots"), len(_LAYER_FIELDS)) * share)

    fields = mtf.Dimension("metric_fields", len(_LAYER_FIELDS))
    sums = mtf.slicewise(
        add_up, [reached, importance], output_shape=mtf.Shape(groups + [fields]),
        output_dtype=tf.float32, splittable_dims=groups, grad_function=0, name="reached_sums")
    return {"reached": mtf.reduce_sum(sums, output_shape=[fields])}


def summarize(sums: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Names and values for people, from sums of any number of calls.

    Args:
      sums: for each layer ("encoder/block_000/layer_001") what its calls added up to.

    Returns:
      `experts/...` for the model: mean over layers, from end to end;
      `<layer>/...` for a layer; `<layer>/<level>/...` for a level, of the tokens that
      arrive there. Losses are unweighted means over calls, but for `weighted_loss`,
      which is what training adds.

    Raises:
      ValueError: there is nothing to summarize.
    """
    if not sums:
        raise ValueError(
            "no metrics of experts were found: no layer of the model is an hmoe.MoELayer, or its"
            " metrics are off (hmoe.MoELayer.metrics = False)")
    named: dict[str, float] = {}
    for layer, of_layer in sums.items():
        for name, value in _summarize_layer(of_layer).items():
            named[f"{layer}/{name}"] = value
    for name in _MODEL_NAMES:
        values = [named[f"{layer}/{name}"] for layer in sums if f"{layer}/{name}" in named]
        if values:
            named[f"experts/{name}"] = float(np.mean(values))
    weighted = [named[f"{layer}/weighted_loss"] for layer in sums
                if f"{layer}/weighted_loss" in named]
    if weighted:
        named["experts/weighted_loss"] = float(np.sum(weighted))
    return named


_MODEL_NAMES = (
    "auxiliary_loss",
    "router_z_loss",
    "fraction_tokens_left_behind",
    "expert_usage",
    "router_confidence",
    "load_imbalance",
    "dead_experts",
)


def _summarize_layer(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    calls = float(sums["calls"])
    named: dict[str, float] = {}
    levels = [key.split("/")[0] for key in sums if key.endswith("/balance_loss")]
    for level in levels:
        values = _summarize_level(level, sums, calls)
        named.update({f"{level}/{name}": value for name, value in values.items()})
    for name in ("auxiliary_loss", "router_z_loss"):
        named[name] = float(np.mean([named[f"{level}/{name}"] for level in levels]))
    named["weighted_loss"] = float(np.sum([named[f"{level}/weighted_loss"] for level in levels]))
    if "reached" in sums:
        of = dict(zip(_LAYER_FIELDS, np.asarray(sums["reached"], np.float64)))
        named["fraction_tokens_left_behind"] = _ratio(of["left_behind"], of["tokens"])
        named["expert_usage"] = _ratio(of["filled"], of["slots"])
        named["router_confidence"] = _ratio(of["confidence"], of["filled"])
        # The innermost level knows every expert of the layer: its load has the most
        # dimensions. The order of the keys says nothing, since sessions sort them.
        loads = [np.asarray(sums[f"{level}/load"], np.float64) for level in levels]
        load = max(loads, key=np.ndim)
        named.update(_load_metrics(load.reshape([1, -1])))
    return named


def _summarize_level(level: str, sums: Mapping[str, np.ndarray], calls: float) -> dict[str, float]:
    named = {
        "auxiliary_loss": float(sums[f"{level}/balance_loss"]) / calls,
        "router_z_loss": float(sums[f"{level}/z_loss"]) / calls,
        "weighted_loss": float(sums[f"{level}/weighted_loss"]) / calls,
    }
    if f"{level}/second_place_loss" in sums:
        named["second_place_loss"] = float(sums[f"{level}/second_place_loss"]) / calls
    if f"{level}/tokens" not in sums:
        return named
    fields = np.asarray(sums[f"{level}/tokens"], np.float64)
    fields = fields.reshape([-1, fields.shape[-1]]).sum(axis=0)
    of = dict(zip(_LEVEL_FIELDS, fields))
    named["fraction_tokens_left_behind"] = _ratio(of["left_behind"], of["arrivals"])
    named["expert_usage"] = _ratio(of["filled"], of["slots"])
    named["router_confidence"] = _ratio(of["confidence"], of["filled"])
    named["entropy"] = _ratio(of["entropy"], of["full"])
    by_rank = fields[len(_LEVEL_FIELDS):].reshape([2, -1])
    for rank in range(by_rank.shape[1]):
        named[f"fraction_routed_rank_{rank}"] = _ratio(by_rank[0, rank], of["full"])
        named[f"gate_mean_rank_{rank}"] = _ratio(by_rank[1, rank], of["full"])
    load = np.asarray(sums[f"{level}/load"], np.float64)
    named.update(_load_metrics(load.reshape([-1, load.shape[-1]])))
    return named


def _load_metrics(load: np.ndarray) -> dict[str, float]:
    """Of a load [families of experts, experts]; imbalance is the mean over families by load."""
    totals = load.sum(axis=1)
    imbalance = 1.0
    if totals.sum() > 0:
        highest = load.max(axis=1) * load.shape[1] / np.maximum(totals, 1.0)
        imbalance = float((highest * totals).sum() / totals.sum())
    return {
        "load_imbalance": imbalance,
        "max_violation": imbalance - 1.0,
        "dead_experts": float((load == 0).sum()),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
