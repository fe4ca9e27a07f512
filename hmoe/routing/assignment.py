"""Who goes where: the choices of tokens, and their places in the buffers of experts.

Dimensions: S tokens of a group, K choices of a token, R experts to fall back on, X
experts, C slots of an expert's buffer; "..." are the dimensions of groups and of outer
experts.
"""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import Local, indicator


@dataclasses.dataclass(frozen=True)
class Fallback:
    """Where a choice may go whose expert is full.

    Attributes:
      expert: int32 [..., S, R], none of them chosen, best first; the last dimension has
        the name of the choices.
      weight: float32 [..., S, R], of the output of each. Has a gradient.
    """

    expert: mtf.Tensor
    weight: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a router chose, before buffers are filled.

    A choice dimension counts rounds of placement: all first choices of a group
    are placed before any second one. `demand` says which entries mean something;
    `wanted` is what is left of them after the router's policy.

    Attributes:
      expert: int32 [..., S, K], the expert chosen.
      weight: float32 [..., S, K], the weight of the expert's output; 0 where there
        is no demand. Has a gradient, as no other field but the fallback's.
      rank: int32 [..., S, K], 0 for a token's best expert, 1 for its next, ....
      demand: float32 [..., S, K], 1 where a token chose, before policy and capacity.
      wanted: float32 [..., S, K], 1 where the choice is to be placed.
      tokens_dim: S.
      choice_dim: K.
      experts_dim: X.
      priority: float32 [..., S]: tokens are placed from the highest to the lowest; None:
        in their order.
      fallback: where choices go that find no room; None: nowhere.
      in_order: whether choice j is always of expert j, as where experts choose; much
        that is sorted by expert then is so already.
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
        """float32 [..., S, K] -> [..., S, X]: of the choice of each expert. No gradient."""
        if self.in_order:
            return mtf.rename_dimension(
                mtf.stop_gradient(values), self.choice_dim.name, self.experts_dim.name
            )

        tokens = values.shape.dims[:-1]
        return mtf.slicewise(
            Local(_spread, (self.experts_dim.size,)),
            [values, self.expert],
            output_shape=mtf.Shape([*tokens, self.experts_dim]),
            splittable_dims=tokens,
            grad_function=0,
            name="by_expert",
        )


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Choices with places: everything that dispatch, losses and metrics need.

    Attributes:
      choices: what was asked for.
      expert: int32 [..., S, K], where each choice went: to what it asked for, or to a
        fallback.
      position: int32 [..., S, K], place in that expert's buffer, or -1.
      kept: float32 [..., S, K], 1 where the choice found room.
      weight: float32 [..., S, K], of the output of the expert where it went; 0 where it
        found no room.
      capacity_dim: C.
    """

    choices: Choices
    expert: mtf.Tensor
    position: mtf.Tensor
    kept: mtf.Tensor
    weight: mtf.Tensor
    capacity_dim: mtf.Dimension


def place(choices: Choices, capacity: int, capacity_name: str = "expert_capacity") -> Assignment:
    """Fills buffers: first choices of all tokens in their order, then second ones, ....

    After the last round come those of the fallback: in each, every token that has a
    choice without a place offers the best such choice to its next expert.

    Args:
      choices: what tokens want.
      capacity: slots of each expert for one group.
      capacity_name: name of the dimension of slots.

    Returns:
      The assignment; choices that find no room are not kept.
    """
    fallback, priority = choices.fallback, choices.priority
    inputs = [choices.expert, choices.wanted]
    inputs += [] if fallback is None else [fallback.expert]
    inputs += [] if priority is None else [priority]

    fill = Local(
        _fill if priority is None else _fill_by_priority, (choices.experts_dim.size, capacity)
    )
    expert, position, source = mtf.slicewise(
        fill,
        inputs,
        output_shape=[choices.expert.shape] * 3,
        output_dtype=[tf.int32] * 3,
        splittable_dims=choices.expert.shape.dims[:-2],
        grad_function=0,
        name="place",
    )
    weight = choices.weight if fallback is None else _weight_of_source(choices, fallback, source)
    kept = indicator(tf.greater_equal, position, 0)
    return Assignment(
        choices, expert, position, kept, weight * kept, mtf.Dimension(capacity_name, capacity)
    )


def _spread(num_experts: int, values: tf.Tensor, expert: tf.Tensor) -> tf.Tensor:
    one_hot = tf.one_hot(expert, num_experts, dtype=tf.float32)
    return tf.reduce_sum(one_hot * values[..., None], axis=-2)


def _fill_by_priority(
    num_experts: int, capacity: int, *tensors: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """As `_fill`, tokens of higher priority first; the last of the tensors says which are."""
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
    """(expert, position, source), each int32 [..., S, K], of tokens in order of placement.

    The source of a choice is its own number, or K + r if it went to fallback r.
    """
    buffers = _Buffers(num_experts, capacity)
    went, wanted = tf.unstack(expert, axis=-1), tf.unstack(wanted > 0, axis=-1)
    # Round after round in one sequence, which is counted once.
    positions = tf.split(
        buffers.add(tf.concat(went, -1), tf.concat(wanted, -1)), len(went), axis=-1
    )
    sources = [tf.fill(tf.shape(each), number) for number, each in enumerate(went)]
    for number, offered in enumerate([] if fallback is None else tf.unstack(fallback, axis=-1)):
        homeless = [wants & (position < 0) for wants, position in zip(wanted, positions)]
        place = buffers.add(offered, tf.reduce_any(tf.stack(homeless, 0), 0))
        left = place >= 0
        for choice, moves in enumerate(homeless):
            moves &= left
            left &= ~moves
            positions[choice] = tf.where(moves, place, positions[choice])
            went[choice] = tf.where(moves, offered, went[choice])
            sources[choice] = tf.where(
                moves, tf.fill(tf.shape(place), len(went) + number), sources[choice]
            )
    return tuple(tf.stack(each, axis=-1) for each in (went, positions, sources))


class _Buffers:
    """Fills the buffers of a group's experts, round by round, with tokens in their order."""

    def __init__(self, num_experts: int, capacity: int):
        self._num_experts = num_experts
        self._capacity = capacity
        self._asked: tf.Tensor | int = 0

    def add(self, expert: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        """int32 [..., S]: the place of each token in the buffer of its `expert`, or -1."""
        # [..., S, X]: 1 at the expert that the token asks for.
        asks = (
            tf.one_hot(expert, self._num_experts, dtype=tf.int32)
            * tf.cast(wanted, tf.int32)[..., None]
        )
        before = tf.cumsum(asks, axis=-2, exclusive=True) + self._asked
        self._asked += tf.reduce_sum(asks, axis=-2, keepdims=True)
        # 0 where nothing is asked, else 1 + the place.
        place_plus_1 = tf.reduce_sum(asks * (before + 1), axis=-1)
        return (
            tf.where(place_plus_1 > self._capacity, tf.zeros_like(place_plus_1), place_plus_1) - 1
        )


def _reordered(values: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """[..., S, K] with tokens in another order."""
    return tf.gather(values, order, axis=len(order.shape) - 1, batch_dims=len(order.shape) - 1)


def _weight_of_source(choices: Choices, fallback: Fallback, source: mtf.Tensor) -> mtf.Tensor:
    """float32 [..., S, K]: the choice's own weight, or that of the fallback it went to."""
    name = choices.choice_dim.name
    weights = mtf.rename_dimension(
        mtf.concat([choices.weight, fallback.weight], name), name, "candidate"
    )
    one_hot = mtf.one_hot(source, weights.shape.dims[-1], dtype=tf.float32)
    return mtf.einsum([weights, one_hot], source.shape)
