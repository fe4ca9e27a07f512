"""Who goes where: the choices of tokens, and their places in the buffers of experts.

Dimensions: S tokens of a group, K choices of a token, X experts, C slots of an
expert's buffer; "..." are the dimensions of groups and of outer experts.
"""
from __future__ import annotations

import dataclasses
import functools

from hmoe.compat.stack import mtf, tf


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a router chose, before buffers are filled.

    A choice dimension counts rounds of placement: all first choices of a group
    are placed before any second one. `demand` says which entries mean something;
    `wanted` is what is left of them after the router's policy.

    Attributes:
      expert: int32 [..., S, K], the expert chosen.
      weight: float32 [..., S, K], the weight of the expert's output; 0 where there
        is no demand. The only field with a gradient.
      rank: int32 [..., S, K], 0 for a token's best expert, 1 for its next, ....
      demand: float32 [..., S, K], 1 where a token chose, before policy and capacity.
      wanted: float32 [..., S, K], 1 where the choice is to be placed.
      tokens_dim: S.
      choice_dim: K.
      experts_dim: X.
    """

    expert: mtf.Tensor
    weight: mtf.Tensor
    rank: mtf.Tensor
    demand: mtf.Tensor
    wanted: mtf.Tensor
    tokens_dim: mtf.Dimension
    choice_dim: mtf.Dimension
    experts_dim: mtf.Dimension

    @functools.cached_property
    def one_hot(self) -> mtf.Tensor:
        """float32 [..., S, K, X]: 1 at the expert of each choice, whatever `demand` says."""
        return mtf.one_hot(self.expert, self.experts_dim, dtype=tf.float32)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Choices with places: everything that dispatch, losses and metrics need.

    Attributes:
      choices: what was asked for.
      position: int32 [..., S, K], place in the expert's buffer, or -1.
      kept: float32 [..., S, K], 1 where the choice found room.
      capacity_dim: C.
    """

    choices: Choices
    position: mtf.Tensor
    kept: mtf.Tensor
    capacity_dim: mtf.Dimension

    @property
    def weight(self) -> mtf.Tensor:
        """float32 [..., S, K]: the weight of each choice, 0 where it was not placed."""
        return self.choices.weight * self.kept

    def slots(self) -> mtf.Tensor:
        """int32 [..., S, K]: expert * C + position in the group's buffers, or -1."""
        capacity = self.capacity_dim.size

        def number(expert: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
            return tf.where(position < 0, position, expert * capacity + position)

        expert = self.choices.expert
        return mtf.slicewise(
            number, [expert, self.position], output_dtype=tf.int32,
            splittable_dims=expert.shape.dims, grad_function=0, name="slots")

    def slot_tokens(self) -> mtf.Tensor:
        """int32 [..., X, C]: the token of the group that stands in each slot, or -1."""
        experts, capacity = self.choices.experts_dim, self.capacity_dim
        tokens = self.choices.tokens_dim.size

        def invert(expert: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
            # [..., S, K, X, C] has one 1 per choice that was placed.
            place = (tf.one_hot(expert, experts.size, dtype=tf.int32)[..., None]
                     * tf.one_hot(position, capacity.size, dtype=tf.int32)[..., None, :])
            number = tf.reshape(tf.range(1, tokens + 1), [tokens, 1, 1, 1])
            return tf.reduce_sum(place * number, axis=[-4, -3]) - 1

        expert = self.choices.expert
        groups = expert.shape.dims[:-2]
        return mtf.slicewise(
            invert, [expert, self.position], output_shape=mtf.Shape(groups + [experts, capacity]),
            output_dtype=tf.int32, splittable_dims=groups, grad_function=0, name="slot_tokens")


def place(choices: Choices, capacity: int, capacity_name: str = "expert_capacity") -> Assignment:
    """Fills buffers: first choices of all tokens in their order, then second ones, ....

    Args:
      choices: what tokens want.
      capacity: slots of each expert for one group.
      capacity_name: name of the dimension of slots.

    Returns:
      The assignment; choices that find their expert full are not kept.
    """
    num_experts, num_rounds = choices.experts_dim.size, choices.choice_dim.size

    def fill(expert: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        taken = 0
        positions = []
        for number in range(num_rounds):
            # [..., S, X]: the expert that each token asks for in this round.
            asked = (tf.one_hot(expert[..., number], num_experts, dtype=tf.int32)
                     * tf.cast(wanted[..., number], tf.int32)[..., None])
            before = tf.cumsum(asked, axis=-2, exclusive=True) + taken
            taken += tf.reduce_sum(asked, axis=-2, keepdims=True)
            # 0 where nothing is asked, else 1 + the place.
            place_plus_1 = tf.reduce_sum(asked * (before + 1), axis=-1)
            positions.append(tf.where(place_plus_1 > capacity, tf.zeros_like(place_plus_1),
                                      place_plus_1) - 1)
        return tf.stack(positions, axis=-1)

    groups = choices.expert.shape.dims[:-2]
    position = mtf.slicewise(
        fill, [choices.expert, choices.wanted], output_dtype=tf.int32,
        splittable_dims=groups, grad_function=0, name="place")
    kept = mtf.cast(mtf.greater_equal(position, 0), tf.float32)
    return Assignment(choices, position, kept, mtf.Dimension(capacity_name, capacity))
