"""What a layer tells about itself: sums and counts on the devices, names on the host.

On the devices everything is a sum or a count, so that microbatches, steps and
evaluation batches add up; `summarize` divides once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import Local
from hmoe.routing.assignment import Assignment
from hmoe.routing.gate import Scores

DETAILS = ("brief", "full", "off")

# Fields of "<level>/tokens". In full, two blocks of one field per choice follow.
_BRIEF_FIELDS = ("full", "arrivals", "left_behind", "filled", "slots", "confidence")
_FULL_FIELDS = (*_BRIEF_FIELDS, "entropy")
# Fields of "reached", before one per level: tokens that were lost there.
_LAYER_FIELDS = (
    "tokens",
    "left_behind",
    "filled",
    "slots",
    "confidence",
    "groups",
    "groups_in_use",
)
# Of each kind in "<level>/losses": the loss times the tokens that it is a mean of, these
# tokens, and the factor in the training loss times these tokens.
_LOSS_FIELDS = 3
_LOSS_KINDS = ("balance", "z", "second_place")

Sums = dict[str, mtf.Tensor]


def losses_name(level: str) -> str:
    """Name of the sum that holds the losses of a level."""
    return f"{level}/losses"


def loss_sums(
    raw: Mapping[str, mtf.Tensor], weight: Mapping[str, mtf.Tensor], factor: Mapping[str, float]
) -> mtf.Tensor:
    """float32 [kinds * 3]: the losses of a level, weighed such that calls of any size add up.

    Args:
      raw: scalars by kind, in the order of "balance", "z", "second_place".
      weight: of each kind, the tokens that it is a mean of.
      factor: of each kind, what it is multiplied with in the training loss.
    """
    fields = [
        each
        for kind in _LOSS_KINDS
        if kind in raw
        for each in (raw[kind] * weight[kind], weight[kind], weight[kind] * factor[kind])
    ]
    return mtf.stack(fields, "loss_fields")


def load_name(level: str) -> str:
    """Name of the sum that holds the demand for each expert of a level."""
    return f"{level}/load"


def level_load(assignment: Assignment, outer_expert_dims: list[mtf.Dimension]) -> mtf.Tensor:
    """float32 [*outer, X]: demand for each expert before policy and capacity.

    Of all tokens that are not padding; those of the levels above are kept apart.
    """
    choices = assignment.choices
    shape = mtf.Shape([*outer_expert_dims, choices.experts_dim])
    return mtf.reduce_sum(choices.by_expert(choices.demand), output_shape=shape)


def level_sums(
    name: str,
    scores: Scores,
    assignment: Assignment,
    importance: mtf.Tensor,
    outer_expert_dims: list[mtf.Dimension],
    detail: str,
    ranks: int,
) -> Sums:
    """Sums over the groups of one level.

    Args:
      name: of the level.
      scores: of the level.
      assignment: of the level.
      importance: float32 [*outer, ..., S].
      outer_expert_dims: experts of the levels above.
      detail: "brief" or "full".
      ranks: different ranks that choices can have.

    Returns:
      `<name>/tokens` [*outer, 6], or in full [*outer, 7 + 2 ranks]: the fields above, then
      choices placed by rank, then weights asked for by rank.
    """
    slots = float(scores.experts_dim.size * assignment.capacity_dim.size)
    choices, groups = assignment.choices, importance.shape.dims[:-1]
    inputs = [importance, assignment.kept, assignment.weight]
    number = len(_BRIEF_FIELDS)
    if detail == "full":
        number = len(_FULL_FIELDS) + 2 * ranks
        inputs += [scores.shares, choices.rank, choices.demand, choices.weight]
    fields = mtf.Dimension("metric_fields", number)
    tokens = mtf.slicewise(
        Local(_sums_of_groups, (slots, ranks)),
        inputs,
        output_shape=mtf.Shape(groups + [fields]),
        output_dtype=tf.float32,
        splittable_dims=groups,
        grad_function=0,
        name="level_sums",
    )
    return {f"{name}/tokens": mtf.reduce_sum(tokens, output_shape=outer_expert_dims + [fields])}


def _sums_of_groups(
    slots: float,
    ranks: int,
    importance: tf.Tensor,
    kept: tf.Tensor,
    weight: tf.Tensor,
    *more: tf.Tensor,
) -> tf.Tensor:
    """[..., fields] of each group; `more` is what `_more_fields` needs."""
    # Without TensorFlow 2 behaviour, == compares tensors by identity.
    full = tf.cast(tf.equal(importance, 1.0), tf.float32)
    fields = _brief_fields(importance, full, kept, weight, slots)
    return tf.concat([fields, _more_fields(full, kept, ranks, *more)], -1) if more else fields


def _brief_fields(
    importance: tf.Tensor, full: tf.Tensor, kept: tf.Tensor, weight: tf.Tensor, slots: float
) -> tf.Tensor:
    """[..., 6]: `_BRIEF_FIELDS` of each group."""
    real = tf.cast(importance > 0, tf.float32)
    placed = tf.reduce_sum(kept, axis=-1)
    lost = real * tf.cast(tf.equal(placed, 0.0), tf.float32)
    # Slots are of a group and not of its tokens.
    of_tokens = [full, real, lost, placed, tf.zeros_like(real), tf.reduce_sum(weight, axis=-1)]
    of_group = [slots if name == "slots" else 0.0 for name in _BRIEF_FIELDS]
    return tf.reduce_sum(tf.stack(of_tokens, axis=-1), axis=-2) + of_group


def _more_fields(
    full: tf.Tensor,
    kept: tf.Tensor,
    ranks: int,
    shares: tf.Tensor,
    rank: tf.Tensor,
    demand: tf.Tensor,
    weight: tf.Tensor,
) -> tf.Tensor:
    """[..., 1 + 2 ranks]: entropy, choices placed by rank, weights asked for by rank."""
    entropy = -tf.reduce_sum(shares * tf.math.log(shares + 1e-9), axis=-1) * full
    # [..., S, K, ranks]: rank of each choice of a full token.
    by_rank = tf.one_hot(rank, ranks, dtype=tf.float32) * full[..., None, None]
    routed = tf.reduce_sum(by_rank * kept[..., None], axis=[-3, -2])
    gates = tf.reduce_sum(by_rank * (weight * demand)[..., None], axis=[-3, -2])
    return tf.concat([tf.reduce_sum(entropy, axis=-1)[..., None], routed, gates], axis=-1)


def reached_sums(reached: mtf.Tensor, importance: mtf.Tensor, num_slots: int) -> Sums:
    """Sums from end to end of a layer.

    Args:
      reached: float32 [..., S, levels + 1]: slots that a token fills at each level, and
        the sum of the products of weights on the way to the innermost.
      importance: float32 [..., S].
      num_slots: innermost slots of the layer.

    Returns:
      `reached` [7 + levels]: see `_LAYER_FIELDS`.
    """
    groups = importance.shape.dims[:-1]
    share = float(num_slots) / float(np.prod([dim.size for dim in groups]))
    fields = mtf.Dimension("metric_fields", len(_LAYER_FIELDS) + reached.shape.dims[-1].size - 1)
    sums = mtf.slicewise(
        Local(_sums_of_layer, (share,)),
        [reached, importance],
        output_shape=mtf.Shape(groups + [fields]),
        output_dtype=tf.float32,
        splittable_dims=groups,
        grad_function=0,
        name="reached_sums",
    )
    return {"reached": mtf.reduce_sum(sums, output_shape=[fields])}


def _sums_of_layer(share: float, reached: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    """[..., 7 + levels] of each group: see `_LAYER_FIELDS`."""
    # [..., S, levels + 1]: 1 where a token came to a level, and to an expert in the end.
    came = tf.math.cumprod(
        tf.cast(tf.concat([importance[..., None], reached[..., :-1]], axis=-1) > 0, tf.float32),
        axis=-1,
    )
    number, filled = tf.reduce_sum(came, axis=-2), tf.reduce_sum(reached, axis=-2)
    every = number[..., :1]
    in_use = tf.cast(every > 0, tf.float32)
    return tf.concat(
        [
            every,
            every - number[..., -1:],
            filled[..., -2:-1],
            tf.fill(every.shape, share),
            filled[..., -1:],
            tf.ones_like(in_use),
            in_use,
            number[..., :-1] - number[..., 1:],
        ],
        axis=-1,
    )


def summarize(sums: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Names and values for people, from sums of any number of calls.

    Args:
      sums: for each layer ("encoder/block_000/layer_001") what its calls added up to.

    Returns:
      `experts/...` for the model: mean over layers, from end to end;
      `<layer>/...` for a layer; `<layer>/<level>/...` for a level, of the tokens that
      arrive there. Losses are means over tokens, without their coefficients, but for
      `weighted_loss`, which has them: what training adds.

    Raises:
      ValueError: there is nothing to summarize.
    """
    if not sums:
        raise ValueError(
            "no metrics of experts were found: no layer of the model is an hmoe.MoELayer"
        )
    named: dict[str, float] = {}
    for layer, of_layer in sums.items():
        for name, value in _summarize_layer(of_layer).items():
            named[f"{layer}/{name}"] = value
    for name in _MODEL_NAMES:
        values = [named[f"{layer}/{name}"] for layer in sums if f"{layer}/{name}" in named]
        if values:
            named[f"experts/{name}"] = float(np.mean(values))
    for name in sorted({name for layer in sums for name in _of_levels(named, layer)}):
        values = [named[f"{layer}/{name}"] for layer in sums if f"{layer}/{name}" in named]
        named[f"experts/{name}"] = float(np.mean(values))
    named["experts/weighted_loss"] = float(
        np.sum([named[f"{layer}/weighted_loss"] for layer in sums])
    )
    return named


def _of_levels(named: Mapping[str, float], layer: str) -> list[str]:
    """Names such as "outer/max_violation" that the model has of this layer's levels."""
    return [
        name[len(layer) + 1 :]
        for name in named
        if name.startswith(f"{layer}/")
        and name.endswith(_MODEL_LEVEL_NAMES)
        and name.count("/") == layer.count("/") + 2
    ]


_MODEL_NAMES = (
    "auxiliary_loss",
    "router_z_loss",
    "fraction_tokens_left_behind",
    "expert_usage",
    "router_confidence",
    "load_imbalance",
    "dead_experts",
)

# Of each level, mean over layers.
_MODEL_LEVEL_NAMES = ("/fraction_tokens_dropped", "/max_violation")


def _summarize_layer(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    named: dict[str, float] = {}
    levels = [key.split("/")[0] for key in sums if key.endswith("/losses")]
    for level in levels:
        values = _summarize_level(level, sums)
        named.update({f"{level}/{name}": value for name, value in values.items()})
    for name in ("auxiliary_loss", "router_z_loss"):
        named[name] = float(np.mean([named[f"{level}/{name}"] for level in levels]))
    named["weighted_loss"] = float(np.sum([named[f"{level}/weighted_loss"] for level in levels]))
    if "reached" in sums:
        # A level's load has one more dimension than that of the level above. The order of
        # the keys says nothing, since sessions sort them.
        levels.sort(key=lambda level: np.ndim(sums[load_name(level)]))
        named.update(_end_to_end(levels, np.asarray(sums["reached"], np.float64)))
        # The innermost level knows every expert of the layer.
        load = np.asarray(sums[load_name(levels[-1])], np.float64)
        named.update(_load_metrics(load.reshape([1, -1])))
    return named


def _end_to_end(levels: Sequence[str], reached: np.ndarray) -> dict[str, float]:
    """What became of the layer's tokens; `levels` outermost first."""
    of = dict(zip(_LAYER_FIELDS, reached))
    named = {
        "fraction_tokens_left_behind": _ratio(of["left_behind"], of["tokens"]),
        "expert_usage": _usage(of, of),
        "router_confidence": _ratio(of["confidence"], of["filled"]),
    }
    for level, lost in zip(levels, reached[len(_LAYER_FIELDS) :]):
        named[f"{level}/fraction_tokens_dropped"] = _ratio(lost, of["tokens"])
    return named


def _mean_losses(fields: np.ndarray) -> dict[str, float]:
    """Of `loss_sums`, added up over any number of calls."""
    names = ("auxiliary_loss", "router_z_loss", "second_place_loss")
    rows = np.asarray(fields, np.float64).reshape([-1, _LOSS_FIELDS])
    named = {name: _ratio(loss, weight) for name, (loss, weight, _) in zip(names, rows)}
    named["weighted_loss"] = float(
        sum(_ratio(loss, weight) * _ratio(factor, weight) for loss, weight, factor in rows)
    )
    return named


def _summarize_level(level: str, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    named = _mean_losses(sums[losses_name(level)])
    if f"{level}/tokens" not in sums:
        return named
    fields = np.asarray(sums[f"{level}/tokens"], np.float64)
    fields = fields.reshape([-1, fields.shape[-1]]).sum(axis=0)
    of = dict(zip(_FULL_FIELDS, fields))
    named["fraction_tokens_left_behind"] = _ratio(of["left_behind"], of["arrivals"])
    of_layer = dict(zip(_LAYER_FIELDS, np.asarray(sums["reached"], np.float64)))
    named["expert_usage"] = _usage(of, of_layer)
    named["router_confidence"] = _ratio(of["confidence"], of["filled"])
    load = np.asarray(sums[load_name(level)], np.float64)
    load = load.reshape([-1, load.shape[-1]])
    named.update(_load_metrics(load))
    if "entropy" in of:
        named.update(_full_detail(of, fields[len(_FULL_FIELDS) :].reshape([2, -1]), load))
    return named


def _usage(of: Mapping[str, float], of_layer: Mapping[str, float]) -> float:
    """How full slots are, but for those of groups of padding alone, as fill up the last batch."""
    return _ratio(of["filled"], of["slots"]) * _ratio(of_layer["groups"], of_layer["groups_in_use"])


def _full_detail(
    of: Mapping[str, float], by_rank: np.ndarray, load: np.ndarray
) -> dict[str, float]:
    named = {"entropy": _ratio(of["entropy"], of["full"])}
    for rank in range(by_rank.shape[1]):
        named[f"fraction_routed_rank_{rank}"] = _ratio(by_rank[0, rank], of["full"])
        named[f"gate_mean_rank_{rank}"] = _ratio(by_rank[1, rank], of["full"])
    for expert, demand in enumerate(load.sum(axis=0)):
        named[f"load_{expert}"] = _ratio(demand, load.sum())
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
