"""The choices of tokens, and the slots that they get in the buffers of experts.

Dimensions: S tokens of a group, K choices of a token, R experts to fall back on, X experts, C slots
of an expert's buffer; "..." stands for the dimensions of groups and of outer experts.
"""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import indicator


@dataclasses.dataclass(frozen=True)
class Fallback:
    """Experts that a choice may go to when its own is full.

    Attributes:
      expert: int32 [..., S, R], none of them chosen, best first. The last dimension has the name of
        the dimension of choices.
      weight: float32 [..., S, R], the weight of each expert's output. Has a gradient.
    """

    expert: mtf.Tensor
    weight: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Choices:
    """The choices of a router, before buffers are filled.

    The dimension of choices counts rounds of placement: all first choices of a group are placed
    before any second one. `demand` marks the entries that are choices; `wanted` is what the
    router's policy leaves of them.

    Attributes:
      expert: int32 [..., S, K], the chosen expert.
      weight: float32 [..., S, K], the weight of the expert's output; 0 where there is no demand.
        Has a gradient; of the other fields only the fallback's weight has one.
      rank: int32 [..., S, K], 0 for a token's best expert, 1 for its next, and so on.
      demand: float32 [..., S, K], 1 where a token chose an expert, before policy and capacity.
      wanted: float32 [..., S, K], 1 where the choice is to be placed.
      tokens_dim: S.
      choice_dim: K.
      experts_dim: X.
      priority: float32 [..., S]; tokens are placed from the highest to the lowest. None: in the
        order in which they stand.
      fallback: where choices go that find no room; None: nowhere.
      in_order: whether choice j is always expert j, as where experts choose. What would have to be
        sorted by expert is sorted already then.
    """

    expert: mtf.Tensor
    weight: mtf.Tensor
    rank: mtf.Tensor
    demand: mtf.Tensor
    wanted: mtf.Tensor
    tokens_dim: mtf.Dimension
    choice_dim: mtf.Dimension
    experts_dim: mtf.Dimension
    priority: mtf.Tensor | None = None
    fallback: Fallback | None = None
    in_order: bool = False

    def by_expert(self, values: mtf.Tensor) -> mtf.Tensor:
        """Sorts values of choices by expert: float32 [..., S, K] -> [..., S, X]. No gradient."""
        if self.in_order:
            return mtf.rename_dimension(
                mtf.stop_gradient(values), self.choice_dim.name, self.experts_dim.name
            )
        tokens, num_experts = values.shape.dims[:-1], self.experts_dim.size

        def spread(values: tf.Tensor, expert: tf.Tensor) -> tf.Tensor:
            # [..., S, K, X]
            one_hot = tf.one_hot(expert, num_experts, dtype=tf.float32)
            # [..., S, K, X] -> [..., S, X]
            return tf.reduce_sum(one_hot * values[..., None], axis=-2)

        return mtf.slicewise(
            spread,
            [values, self.expert],
            output_shape=mtf.Shape([*tokens, self.experts_dim]),
            splittable_dims=tokens,
            grad_function=0,
            name="by_expert",
        )


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Choices with their slots: everything that dispatch, losses and metrics need.

    Attributes:
      choices: the choices that were made.
      expert: int32 [..., S, K], the expert where each choice went: the chosen one, or a fallback.
      position: int32 [..., S, K], the slot in that expert's buffer, or -1.
      kept: float32 [..., S, K], 1 where the choice found room.
      weight: float32 [..., S, K], the weight of the output of the expert where the choice went; 0
        where it found no room.
      capacity_dim: C.
    """

    choices: Choices
    expert: mtf.Tensor
    position: mtf.Tensor
    kept: mtf.Tensor
    weight: mtf.Tensor
    capacity_dim: mtf.Dimension


def fill_buffers(choices: Choices, capacity_dim: mtf.Dimension) -> Assignment:
    """Fills buffers with the first choices of all tokens in their order, then second ones, ...

    The rounds of the fallback come last. In each, every token that has a choice without a slot
    offers the best such choice to its next expert.

    Args:
      choices: the choices to place.
      capacity_dim: C, the slots of each expert for one group.

    Returns:
      The assignment; choices that find no room are not kept.
    """
    fallback, priority = choices.fallback, choices.priority
    num_experts, capacity = choices.experts_dim.size, capacity_dim.size
    inputs = [choices.expert, choices.wanted]
    inputs += [] if fallback is None else [fallback.expert]
    inputs += [] if priority is None else [priority]
    fill = _fill if priority is None else _fill_by_priority
    # Three of int32 [..., S, K]
    expert, position, source = mtf.slicewise(
        lambda *tensors: fill(num_experts, capacity, *tensors),
        inputs,
        output_shape=[choices.expert.shape] * 3,
        output_dtype=[tf.int32] * 3,
        splittable_dims=choices.expert.shape.dims[:-2],
        grad_function=0,
        name="fill_buffers",
    )
    weight = choices.weight if fallback is None else _weight_of_source(choices, fallback, source)
    kept = indicator(tf.greater_equal, position, 0)
    return Assignment(choices, expert, position, kept, weight * kept, capacity_dim)


def _fill_by_priority(
    num_experts: int, capacity: int, *tensors: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """Fills as `_fill`, tokens of higher priority first; the last tensor is that, [..., S]."""
    *rounds, priority = tensors
    order = tf.argsort(priority, axis=-1, direction="DESCENDING", stable=True)
    filled = _fill(num_experts, capacity, *(_reordered(each, order) for each in rounds))
    back = tf.argsort(order, axis=-1, stable=True)
    return tuple(_reordered(each, back) for each in filled)


def _fill(
    num_experts: int,
    capacity: int,
    expert: tf.Tensor,
    wanted: tf.Tensor,
    fallback: tf.Tensor | None = None,
) -> tuple[tf.Tensor, ...]:
    """Fills buffers with tokens in their order.

    Args:
      num_experts: X.
      capacity: C.
      expert: int32 [..., S, K].
      wanted: float32 [..., S, K].
      fallback: int32 [..., S, R], or None.

    Returns:
      (expert, position, source), each int32 [..., S, K]. The source of a choice is its own number,
      or K + r if it went to fallback r.
    """
    buffers = _Buffers(num_experts, capacity)
    # [..., S, K] -> K of [..., S]
    went, wants = tf.unstack(expert, axis=-1), tf.unstack(wanted > 0, axis=-1)
    # Round after round in one sequence [..., K * S], which is counted once.
    positions = tf.split(buffers.add(tf.concat(went, -1), tf.concat(wants, -1)), len(went), axis=-1)
    sources = [tf.fill(tf.shape(each), number) for number, each in enumerate(went)]
    for number, offered in enumerate([] if fallback is None else tf.unstack(fallback, axis=-1)):
        unplaced = [want & (position < 0) for want, position in zip(wants, positions)]
        # K of [..., S] -> [..., S]
        slot = buffers.add(offered, tf.reduce_any(tf.stack(unplaced, 0), 0))
        left = slot >= 0
        for choice, moves in enumerate(unplaced):
            moves &= left
            left &= ~moves
            positions[choice] = tf.where(moves, slot, positions[choice])
            went[choice] = tf.where(moves, offered, went[choice])
            sources[choice] = tf.where(
                moves, tf.fill(tf.shape(slot), len(went) + number), sources[choice]
            )
    # K of [..., S] -> [..., S, K]
    return tuple(tf.stack(each, axis=-1) for each in (went, positions, sources))


class _Buffers:
    """The buffers of a group's experts, filled round by round with tokens in their order."""

    def __init__(self, num_experts: int, capacity: int):
        self._num_experts = num_experts
        self._capacity = capacity
        self._asked: tf.Tensor | int = 0

    def add(self, expert: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        """Returns int32 [..., S]: the slot of each token in the buffer of its expert, or -1."""
        # [..., S, X]: 1 at the expert that the token asks for.
        asks = (
            tf.one_hot(expert, self._num_experts, dtype=tf.int32)
            * tf.cast(wanted, tf.int32)[..., None]
        )
        before = tf.cumsum(asks, axis=-2, exclusive=True) + self._asked
        # [..., S, X] -> [..., 1, X]
        self._asked += tf.reduce_sum(asks, axis=-2, keepdims=True)
        # [..., S, X] -> [..., S]: 0 where nothing is asked, else 1 + the slot.
        slot_plus_1 = tf.reduce_sum(asks * (before + 1), axis=-1)
        return tf.where(slot_plus_1 > self._capacity, tf.zeros_like(slot_plus_1), slot_plus_1) - 1


def _reordered(values: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Returns [..., S, K] with tokens in the order [..., S]."""
    num_leading = len(order.shape) - 1
    # [..., S, K], [..., S] -> [..., S, K]
    return tf.gather(values, order, axis=num_leading, batch_dims=num_leading)


def _weight_of_source(choices: Choices, fallback: Fallback, source: mtf.Tensor) -> mtf.Tensor:
    """Returns float32 [..., S, K]: a choice's own weight, or that of the fallback it went to."""
    name = choices.choice_dim.name
    # [..., S, K] and [..., S, R] -> [..., S, K + R]
    weights = mtf.rename_dimension(
        mtf.concat([choices.weight, fallback.weight], name), name, "candidate"
    )
    # [..., S, K] -> [..., S, K, K + R]
    one_hot = mtf.one_hot(source, weights.shape.dims[-1], dtype=tf.float32)
    # [..., S, K + R], [..., S, K, K + R] -> [..., S, K]
    return mtf.einsum([weights, one_hot], source.shape)
