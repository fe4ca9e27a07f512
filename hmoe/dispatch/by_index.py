"""Moves tokens by gathering rows: each slot knows its token, each token its slots.

Gradients are gathers too, so no float is ever added up in an order that varies, and
nothing of the size of tokens times slots is made.

Dimensions: g are those of groups, Q their product, S tokens of a group, K choices, X
experts, C slots, T all that trails (the depth, and what travels beside it).
"""

from __future__ import annotations

import math

from hmoe.compat.stack import tf
from hmoe.dispatch.slot_sizes import Sizes


def places(expert: tf.Tensor, position: tf.Tensor, sizes: Sizes) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers of slots and of choices, counted over all groups of the device.

    Args:
      expert: int32 [*g, S, K].
      position: int32 [*g, S, K], or -1.
      sizes: X and C.

    Returns:
      `slots` int32 [*g, S, K], (x * Q + q) * C + c of each choice, or -1; and `sources`
      int32 [X, *g, C], (q * S + s) * K + k of the choice that stands in each slot, or -1.
    """
    shape: list[int] = expert.shape.as_list()
    num_groups, choices = math.prod(shape[:-2]), math.prod(shape)
    group = tf.reshape(tf.range(num_groups), [*shape[:-2], 1, 1])
    number = (expert * num_groups + group) * sizes.capacity + position
    slots = tf.where(position < 0, position, number)
    # Whole numbers, each slot at most once: choices without a slot are left out, and
    # slots without a choice stay 0.
    sources = (
        tf.math.unsorted_segment_sum(
            tf.range(1, choices + 1), tf.reshape(slots, [-1]), num_groups * sizes.num_slots
        )
        - 1
    )
    return slots, tf.reshape(sources, [sizes.num_experts, *shape[:-2], sizes.capacity])


def to_slots(rows: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor, sizes: Sizes) -> tf.Tensor:
    """[*g, S, *T] -> [X, *g, C, *T]: the token that stands in each slot; 0 in empty ones."""
    del sizes
    found = _rows_of_slots(rows, slots, sources)
    return tf.where_v2(_beside(sources >= 0, found), found, tf.zeros([], rows.dtype))


def to_tokens(
    buffers: tf.Tensor,
    slots: tf.Tensor,
    sources: tf.Tensor,
    sizes: Sizes,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """[X, *g, C, *T] -> [*g, S, *T]: the sum over the slots of each token.

    Args:
      buffers: of slots.
      slots: of `places`.
      sources: of `places`.
      sizes: X and C.
      weights: [*g, S, K], of each choice, 0 where it has no slot; None: 1 where it has one.
    """
    trailing = buffers.shape.as_list()[len(sources.shape) :]
    flat = _flat(buffers, len(sources.shape))
    summed = (
        _sum_of_placed(flat, slots, sources, weights)
        if sizes.in_order
        else _sum_of_choices(flat, slots, weights)
    )
    return tf.reshape(summed, slots.shape.as_list()[:-1] + trailing)


def to_slots_weighted(
    rows: tf.Tensor,
    buffers: tf.Tensor,
    slots: tf.Tensor,
    sources: tf.Tensor,
    sizes: Sizes,
    weights: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The gradients of `to_tokens`.

    Args:
      rows: [*g, S, *T], gradient of what it returned.
      buffers: [X, *g, C, *T], as it was given.
      slots: of `places`.
      sources: of `places`.
      sizes: X and C.
      weights: [*g, S, K], as it was given.

    Returns:
      Gradients of buffers [X, *g, C, *T] and of weights [*g, S, K].
    """
    del sizes
    found = _rows_of_slots(rows, slots, sources)
    of_slots = _of_sources(weights, sources)
    trailing = list(range(len(sources.shape), len(found.shape)))
    products = tf.reshape(tf.reduce_sum(found * buffers, axis=trailing), [-1])
    of_choices = tf.where_v2(
        slots >= 0, tf.gather(products, tf.maximum(slots, 0)), tf.zeros([], rows.dtype)
    )
    return tf.math.multiply_no_nan(found, _beside(of_slots, found)), of_choices


def choices_to_slots(
    values: list[tf.Tensor], slots: tf.Tensor, sources: tf.Tensor, sizes: Sizes
) -> tf.Tensor:
    """F of [*g, S, K] -> [X, *g, C, F]: of the choice that stands in each slot; else 0."""
    del slots, sizes
    flat = tf.stack([tf.reshape(each, [-1]) for each in values], axis=-1)
    found = tf.gather(flat, tf.maximum(sources, 0))
    return tf.where_v2((sources >= 0)[..., None], found, tf.zeros([], flat.dtype))


def _rows_of_slots(rows: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor) -> tf.Tensor:
    """[*g, S, *T] -> [X, *g, C, *T], any token's in empty slots."""
    num_groups, num_choices = len(slots.shape) - 2, slots.shape[-1]
    tokens = tf.maximum(sources, 0)
    if num_choices > 1:
        tokens //= num_choices
    found = tf.gather(_flat(rows, num_groups + 1), tokens)
    return tf.reshape(found, sources.shape.as_list() + rows.shape.as_list()[num_groups + 1 :])


def _sum_of_choices(flat: tf.Tensor, slots: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """[*g, S, T] of slots [slots, T]: choice by choice, since one sum over K costs more."""
    if weights is None:
        weights = tf.cast(slots >= 0, flat.dtype)
    places = tf.unstack(tf.maximum(slots, 0), axis=-1)
    return tf.add_n(
        [
            # A choice without a slot reads some slot, whatever stands there.
            tf.math.multiply_no_nan(tf.gather(flat, place), weight)
            for place, weight in zip(places, tf.unstack(weights[..., None], axis=-2))
        ]
    )


def _sum_of_placed(
    flat: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor, weights: tf.Tensor | None
) -> tf.Tensor:
    """[tokens, T] of slots [slots, T]: where experts choose, most of K leave a token out."""
    if weights is not None:
        flat = tf.math.multiply_no_nan(flat, tf.reshape(_of_sources(weights, sources), [-1, 1]))
    slots = tf.reshape(slots, [-1, slots.shape[-1]])
    placed = tf.where(slots >= 0)
    # In the order of tokens, so that every sum is taken in one order.
    return tf.sparse.segment_sum(
        flat, tf.gather_nd(slots, placed), placed[:, 0], num_segments=slots.shape[0]
    )


def _of_sources(values: tf.Tensor, sources: tf.Tensor) -> tf.Tensor:
    """[*g, S, K] -> [X, *g, C]: of the choice that stands in each slot; 0 in empty ones."""
    found = tf.gather(tf.reshape(values, [-1]), tf.maximum(sources, 0))
    return tf.where_v2(sources >= 0, found, tf.zeros([], values.dtype))


def _flat(tensor: tf.Tensor, num_leading: int) -> tf.Tensor:
    """[rows, T] of a tensor with so many dimensions of rows."""
    trailing = tensor.shape.as_list()[num_leading:]
    return tf.reshape(tensor, [-1, math.prod(trailing)])


def _beside(of_rows: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """A number for each row, with as many dimensions as the rows."""
    extra = len(rows.shape) - len(of_rows.shape)
    return tf.reshape(of_rows, of_rows.shape.as_list() + [1] * extra)
