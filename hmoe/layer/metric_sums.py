"""Sums and counts that a layer computes on the devices.

Everything here is a sum or a count, so that microbatches, steps and evaluation batches can be
added; `hmoe.layer.metrics.summarize` divides once, at the end. The two tables of fields below name
each number once: they are computed, decoded and documented from there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hmoe.compat.stack import mtf, tf
from hmoe.layer.recursion import RoutedLevel
from hmoe.mesh.layout import tensor_order

DETAILS = ("brief", "full", "off")
LOSS_KINDS = ("balance", "z", "second_place")

# Name of the sums of a whole layer.
LAYER = "reached"


def losses_name(level: str) -> str:
    """Returns the name of the sums of a level's losses."""
    return f"{level}/losses"


def load_name(level: str) -> str:
    """Returns the name of the demand for each expert of a level."""
    return f"{level}/load"


def tokens_name(level: str) -> str:
    """Returns the name of the sums over the tokens of a level."""
    return f"{level}/tokens"


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One loss of a level.

    Attributes:
      kind: one of `LOSS_KINDS`.
      loss: float32 [], the mean, without its coefficient.
      weight: float32 [], the number of tokens that it is the mean of.
      factor: its coefficient in the training loss.
    """

    kind: str
    loss: mtf.Tensor
    weight: mtf.Tensor
    factor: float


def loss_sums(terms: Sequence[LossTerm]) -> mtf.Tensor:
    """Returns float32 [3 * terms]: loss * weight, weight, and weight * factor of each term.

    Weighted so, calls of any size can be added. The terms have the order of `LOSS_KINDS`.
    """
    fields = [
        each
        for term in terms
        for each in (term.loss * term.weight, term.weight, term.weight * term.factor)
    ]
    return mtf.stack(fields, "loss_fields")


def load(routed: RoutedLevel) -> mtf.Tensor:
    """Returns float32 [*outer experts, X], the demand for each expert before policy and capacity.

    All tokens that are not padding count.
    """
    choices = routed.assignment.choices
    outer = tensor_order(routed.shape.outer_expert_dims)
    demand = choices.by_expert(choices.demand)
    # [*outer experts, ..., S, X] -> [*outer experts, X]
    return mtf.reduce_sum(demand, output_shape=mtf.Shape([*outer, choices.experts_dim]))


@dataclasses.dataclass(frozen=True)
class Group:
    """The tensors of one device that sums over tokens are computed from.

    Attributes:
      importance: [..., S].
      kept: [..., S, K], 1 where a choice has a slot.
      weight: [..., S, K], its weight there.
      shares: [..., S, X], probabilities that sum to 1; like the following, in full detail only.
      rank: int32 [..., S, K].
      demand: [..., S, K], 1 where there is a choice, before policy and capacity.
      asked: [..., S, K], its weight there.
    """

    importance: tf.Tensor
    kept: tf.Tensor
    weight: tf.Tensor
    shares: tf.Tensor = None
    rank: tf.Tensor = None
    demand: tf.Tensor = None
    asked: tf.Tensor = None

    @functools.cached_property
    def full(self) -> tf.Tensor:
        """1 for full tokens, [..., S]."""
        # Without TensorFlow 2 behavior, == compares tensors by identity.
        return tf.cast(tf.equal(self.importance, 1.0), tf.float32)

    @functools.cached_property
    def real(self) -> tf.Tensor:
        """1 for tokens that are not padding, [..., S]."""
        return tf.cast(self.importance > 0, tf.float32)

    @functools.cached_property
    def placed(self) -> tf.Tensor:
        """The number of slots that each token fills, [..., S]."""
        return tf.reduce_sum(self.kept, axis=-1)

    @functools.cached_property
    def lost(self) -> tf.Tensor:
        """1 for real tokens without a slot, [..., S]."""
        return self.real * tf.cast(tf.equal(self.placed, 0.0), tf.float32)

    @functools.cached_property
    def entropy(self) -> tf.Tensor:
        """The entropy of the gate for full tokens in nats, [..., S]."""
        return -tf.reduce_sum(self.shares * tf.math.log(self.shares + 1e-9), axis=-1) * self.full

    def by_rank(self, values: tf.Tensor, num_ranks: int) -> tf.Tensor:
        """Sums values of full tokens' choices [..., S, K] by their rank, to [..., S, ranks]."""
        # [..., S, K, ranks]
        one_hot = tf.one_hot(self.rank, num_ranks, dtype=tf.float32) * self.full[..., None, None]
        return tf.reduce_sum(one_hot * values[..., None], axis=-2)


@dataclasses.dataclass(frozen=True)
class TokenField:
    """A sum over the tokens of a level.

    Attributes:
      name: the name of the sum.
      detail: "brief", or "full" where only full detail has it.
      doc: what is summed.
      per_token: computes [..., S] from a group and its number of ranks; None for the number of
        slots, which belong to the group and not to its tokens.
      by_rank: whether there is one sum for each rank of a choice: then `per_token` computes
        [..., S, ranks].
    """

    name: str
    detail: str
    doc: str
    per_token: Callable[[Group, int], tf.Tensor] | None
    by_rank: bool = False


TOKEN_FIELDS = (
    TokenField("full", "brief", "full tokens", lambda group, _: group.full),
    TokenField("real", "brief", "real tokens", lambda group, _: group.real),
    TokenField("dropped", "brief", "real tokens without a slot", lambda group, _: group.lost),
    TokenField("filled", "brief", "filled slots", lambda group, _: group.placed),
    TokenField("slots", "brief", "slots", None),
    TokenField(
        "confidence",
        "brief",
        "weights of filled slots",
        lambda group, _: tf.reduce_sum(group.weight, axis=-1),
    ),
    TokenField(
        "entropy", "full", "entropy of the gate for full tokens", lambda group, _: group.entropy
    ),
    TokenField(
        "placed",
        "full",
        "choices of full tokens that have a slot, by rank",
        lambda group, num_ranks: group.by_rank(group.kept, num_ranks),
        by_rank=True,
    ),
    TokenField(
        "asked",
        "full",
        "weights of choices of full tokens, by rank",
        lambda group, num_ranks: group.by_rank(group.asked * group.demand, num_ranks),
        by_rank=True,
    ),
)


def token_sums(routed: RoutedLevel, detail: str) -> mtf.Tensor:
    """Returns float32 [*outer experts, fields], the sums over the tokens of a level.

    Args:
      routed: the level.
      detail: "brief" or "full".
    """
    assignment, choices = routed.assignment, routed.assignment.choices
    num_ranks = routed.level.router.num_ranks(routed.level.num_experts)
    slots = float(choices.experts_dim.size * assignment.capacity_dim.size)
    tensors = [routed.batch.importance, assignment.kept, assignment.weight]
    if detail == "full":
        tensors += [routed.scores.shares, choices.rank, choices.demand, choices.weight]
    fields = [each for each in TOKEN_FIELDS if detail in ("full", each.detail)]

    def compute(*tensors: tf.Tensor) -> tf.Tensor:
        group = Group(*tensors)
        # [..., S, fields]
        columns = tf.concat([_columns(each, group, num_ranks) for each in fields], axis=-1)
        of_group = [slots if each.per_token is None else 0.0 for each in fields]
        of_group += [0.0] * (columns.shape[-1] - len(of_group))
        # [..., S, fields] -> [..., fields]
        return tf.reduce_sum(columns, axis=-2) + of_group

    groups = routed.batch.importance.shape.dims[:-1]
    width = sum(num_ranks if each.by_rank else 1 for each in fields)
    dim = mtf.Dimension("metric_fields", width)
    sums = mtf.slicewise(
        compute,
        tensors,
        output_shape=mtf.Shape([*groups, dim]),
        output_dtype=tf.float32,
        splittable_dims=groups,
        grad_function=0,
        name="token_sums",
    )
    # [*outer experts, ..., fields] -> [*outer experts, fields]
    outer = tensor_order(routed.shape.outer_expert_dims)
    return mtf.reduce_sum(sums, output_shape=mtf.Shape([*outer, dim]))


def _columns(field: TokenField, group: Group, num_ranks: int) -> tf.Tensor:
    """Returns [..., S, 1], or [..., S, ranks] of a field by rank."""
    if field.per_token is None:
        return tf.zeros_like(group.importance)[..., None]
    values = field.per_token(group, num_ranks)
    return values if field.by_rank else values[..., None]


@dataclasses.dataclass(frozen=True)
class TokenNumbers:
    """The sums over the tokens of a level, on the host.

    Attributes:
      sums: by name.
      by_rank: vectors [ranks] by name; empty without full detail.
    """

    sums: Mapping[str, float]
    by_rank: Mapping[str, np.ndarray]


def decode_tokens(sums: np.ndarray) -> TokenNumbers:
    """Names the numbers of `token_sums`, summed over the outer experts."""
    values = np.asarray(sums, np.float64)
    values = values.reshape([-1, values.shape[-1]]).sum(axis=0)
    scalars = [each.name for each in TOKEN_FIELDS if not each.by_rank]
    by_rank = [each.name for each in TOKEN_FIELDS if each.by_rank]
    # Only full detail has anything behind the scalars.
    rows = values[len(scalars) :].reshape([len(by_rank), -1])
    return TokenNumbers(
        dict(zip(scalars, values.tolist())), dict(zip(by_rank, rows)) if rows.size else {}
    )


@dataclasses.dataclass(frozen=True)
class Path:
    """The way of tokens through all levels, for some groups of the first.

    Attributes:
      came: [..., S, levels + 1], 1 where a token came to a level, and in the end to an expert.
      reached: [..., S, levels + 1], the slots that a token fills at each level, and the sum of the
        products of weights on the way to the innermost ones.
      slots: innermost slots of one group.
    """

    came: tf.Tensor
    reached: tf.Tensor
    slots: float

    @functools.cached_property
    def tokens(self) -> tf.Tensor:
        """The number of real tokens, [...]."""
        return tf.reduce_sum(self.came[..., 0], axis=-1)


@dataclasses.dataclass(frozen=True)
class LayerField:
    """A sum over the groups of the first level, from end to end of a layer.

    Attributes:
      name: the name of the sum.
      doc: what is summed.
      per_group: computes [...] from a path.
    """

    name: str
    doc: str
    per_group: Callable[[Path], tf.Tensor]


LAYER_FIELDS = (
    LayerField("tokens", "real tokens", lambda path: path.tokens),
    LayerField(
        "left_behind",
        "real tokens that reach no innermost expert",
        lambda path: path.tokens - tf.reduce_sum(path.came[..., -1], axis=-1),
    ),
    LayerField(
        "filled",
        "filled innermost slots",
        lambda path: tf.reduce_sum(path.reached[..., -2], axis=-1),
    ),
    LayerField("slots", "innermost slots", lambda path: tf.fill(path.tokens.shape, path.slots)),
    LayerField(
        "confidence",
        "products of weights on the way to filled innermost slots",
        lambda path: tf.reduce_sum(path.reached[..., -1], axis=-1),
    ),
    LayerField("groups", "groups of the first level", lambda path: tf.ones_like(path.tokens)),
    LayerField(
        "groups_in_use",
        "groups of the first level with a real token",
        lambda path: tf.cast(path.tokens > 0, tf.float32),
    ),
)


def layer_sums(routed: Sequence[RoutedLevel]) -> mtf.Tensor:
    """Returns float32 [fields + levels]: `LAYER_FIELDS`, then tokens that each level lost."""
    importance, reached = routed[0].batch.importance, _reached(routed)
    groups = importance.shape.dims[:-1]
    num_slots = mtf.Shape(routed[-1].dispatcher.slot_dims).size
    slots = num_slots / math.prod(dim.size for dim in groups)

    def compute(importance: tf.Tensor, reached: tf.Tensor) -> tf.Tensor:
        # [..., S, levels + 1]
        there = tf.concat([importance[..., None], reached[..., :-1]], axis=-1) > 0
        came = tf.math.cumprod(tf.cast(there, tf.float32), axis=-1)
        path = Path(came, reached, slots)
        # [..., S, levels + 1] -> [..., levels + 1] -> [..., levels]
        number = tf.reduce_sum(came, axis=-2)
        lost = number[..., :-1] - number[..., 1:]
        fields = [each.per_group(path)[..., None] for each in LAYER_FIELDS]
        return tf.concat([*fields, lost], axis=-1)

    dim = mtf.Dimension("metric_fields", len(LAYER_FIELDS) + len(routed))
    sums = mtf.slicewise(
        compute,
        [importance, reached],
        output_shape=mtf.Shape([*groups, dim]),
        output_dtype=tf.float32,
        splittable_dims=groups,
        grad_function=0,
        name="layer_sums",
    )
    # [..., fields] -> [fields]
    return mtf.reduce_sum(sums, output_shape=mtf.Shape([dim]))


def decode_layer(sums: np.ndarray, levels: Sequence[str]) -> dict[str, float]:
    """Names the numbers of `layer_sums`; tokens lost at a level are called "lost/<level>"."""
    names = [each.name for each in LAYER_FIELDS] + [f"lost/{level}" for level in levels]
    return dict(zip(names, np.asarray(sums, np.float64).tolist()))


def decode_losses(sums: np.ndarray) -> Mapping[str, tuple[float, float, float]]:
    """Returns loss * weight, weight, and weight * factor for each kind of loss of a level."""
    rows = np.asarray(sums, np.float64).reshape([-1, 3])
    return {kind: (row[0], row[1], row[2]) for kind, row in zip(LOSS_KINDS, rows.tolist())}


def _reached(routed: Sequence[RoutedLevel]) -> mtf.Tensor:
    """Follows the tokens of the first level through all levels.

    Returns:
      float32 [..., S, levels + 1]: the slots that a token fills at each level, and the sum of the
      products of weights on the way to the innermost ones.
    """
    found: mtf.Tensor | None = None
    for each in reversed(routed):
        own = _placed(each)
        if found is not None:
            # The groups of the next level hold the slots of this one.
            slots = mtf.Shape([*each.dispatcher.slot_dims, found.shape.dims[-1]])
            deeper = each.dispatcher.collect(mtf.reshape(found, slots))
            # [..., S, 1], [..., S, levels below + 1] -> [..., S, levels + 1]
            own = mtf.concat([mtf.slice(own, 0, 1, "reached"), deeper], "reached")
        found = own
    return found


def _placed(routed: RoutedLevel) -> mtf.Tensor:
    """Returns float32 [..., S, 2], the slots that a token fills, and the sum of their weights."""
    kept, tokens = routed.assignment.kept, routed.batch.importance.shape.dims
    return mtf.slicewise(
        # Two of [..., S, K] -> [..., S, 2]
        lambda *of_choices: tf.reduce_sum(tf.stack(of_choices, axis=-1), axis=-2),
        [kept, routed.assignment.weight],
        output_shape=mtf.Shape([*tokens, mtf.Dimension("reached", 2)]),
        splittable_dims=tokens,
        grad_function=0,
        name="placed",
    )
