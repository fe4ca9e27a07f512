"""Moves tokens by gathering rows: each slot knows its token, each token its slots.

Gradients are gathers too, so that floats are never added in an order that varies, and no tensor has
the size of tokens times slots.

Dimensions: g stands for those of groups, Q for their product, S tokens of a group, K choices, X
experts, C slots, T everything that trails (the depth, and what travels beside it).
"""

from __future__ import annotations

import math

from tensorflow.python.ops import control_flow_util

from hmoe.compat.stack import tf
from hmoe.dispatch.slot_sizes import SlotSizes


def slot_index(
    expert: tf.Tensor, position: tf.Tensor, sizes: SlotSizes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers slots and choices over all groups of the device.

    Args:
      expert: int32 [*g, S, K].
      position: int32 [*g, S, K], or -1.
      sizes: X and C.

    Returns:
      `slots` int32 [*g, S, K], the slot (x * Q + q) * C + c of each choice, or -1; and `sources`
      int32 [X, *g, C], the choice (q * S + s) * K + k in each slot, or -1.
    """
    shape: list[int] = expert.shape.as_list()
    num_groups, choices = math.prod(shape[:-2]), math.prod(shape)
    # [Q] -> [*g, 1, 1]
    group = tf.reshape(tf.range(num_groups), [*shape[:-2], 1, 1])
    number = (expert * num_groups + group) * sizes.capacity + position
    slots = tf.where(position < 0, position, number)
    # [*g, S, K] -> [X * Q * C]. Integers, and each slot at most once: choices without a slot are
    # left out, and slots without a choice stay 0.
    sources = (
        tf.math.unsorted_segment_sum(
            tf.range(1, choices + 1), tf.reshape(slots, [-1]), num_groups * sizes.num_slots
        )
        - 1
    )
    # [X * Q * C] -> [X, *g, C]
    return slots, tf.reshape(sources, [sizes.num_experts, *shape[:-2], sizes.capacity])


def to_slots(rows: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor, sizes: SlotSizes) -> tf.Tensor:
    """Moves tokens [*g, S, *T] into slots [X, *g, C, *T]; empty slots get 0."""
    del sizes
    found = _rows_of_slots(rows, slots, sources)
    return tf.where_v2(_beside(sources >= 0, found), found, tf.zeros([], rows.dtype))


def to_tokens(
    buffers: tf.Tensor,
    slots: tf.Tensor,
    sources: tf.Tensor,
    sizes: SlotSizes,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """Sums the slots [X, *g, C, *T] of each token, to [*g, S, *T].

    Args:
      buffers: [X, *g, C, *T].
      slots: see `slot_index`.
      sources: see `slot_index`.
      sizes: X and C.
      weights: [*g, S, K], the weight of each choice, 0 where it has no slot; None: 1 where it has
        one.
    """
    trailing = buffers.shape.as_list()[len(sources.shape) :]
    flat = _flat(buffers, len(sources.shape))
    summed = (
        _sum_of_placed(flat, slots, sources, weights)
        if sizes.in_order
        else _sum_of_choices(flat, slots, weights)
    )
    # [*g, S, T] -> [*g, S, *T]
    return tf.reshape(summed, slots.shape.as_list()[:-1] + trailing)


def to_slots_weighted(
    rows: tf.Tensor,
    buffers: tf.Tensor,
    slots: tf.Tensor,
    sources: tf.Tensor,
    sizes: SlotSizes,
    weights: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of `to_tokens`.

    Args:
      rows: [*g, S, *T], the gradient of its result.
      buffers: [X, *g, C, *T], its argument.
      slots: see `slot_index`.
      sources: see `slot_index`.
      sizes: X and C.
      weights: [*g, S, K], its argument.

    Returns:
      Gradients of buffers [X, *g, C, *T] and of weights [*g, S, K].
    """
    del sizes
    found = _rows_of_slots(rows, slots, sources)
    of_slots = _of_sources(weights, sources)
    trailing = list(range(len(sources.shape), len(found.shape)))
    # [X, *g, C, *T] -> [X * Q * C]
    products = tf.reshape(tf.reduce_sum(found * buffers, axis=trailing), [-1])
    # [X * Q * C], [*g, S, K] -> [*g, S, K]
    of_choices = tf.where_v2(
        slots >= 0, tf.gather(products, tf.maximum(slots, 0)), tf.zeros([], rows.dtype)
    )
    return tf.math.multiply_no_nan(found, _beside(of_slots, found)), of_choices


def choices_to_slots(
    values: list[tf.Tensor], slots: tf.Tensor, sources: tf.Tensor, sizes: SlotSizes
) -> tf.Tensor:
    """Moves F values of choices [*g, S, K] into slots [X, *g, C, F]; empty slots get 0."""
    del slots, sizes
    # F of [*g, S, K] -> [Q * S * K, F]
    flat = tf.stack([tf.reshape(each, [-1]) for each in values], axis=-1)
    # [Q * S * K, F], [X, *g, C] -> [X, *g, C, F]
    found = tf.gather(flat, tf.maximum(sources, 0))
    return tf.where_v2((sources >= 0)[..., None], found, tf.zeros([], flat.dtype))


def _rows_of_slots(rows: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor) -> tf.Tensor:
    """Gathers tokens [*g, S, *T] into slots [X, *g, C, *T]; empty slots get any token."""
    num_groups, num_choices = len(slots.shape) - 2, slots.shape[-1]
    tokens = tf.maximum(sources, 0)
    if num_choices > 1:
        tokens //= num_choices
    # [Q * S, T], [X, *g, C] -> [X, *g, C, T]
    found = tf.gather(_flat(rows, num_groups + 1), tokens)
    # [X, *g, C, T] -> [X, *g, C, *T]
    return tf.reshape(found, sources.shape.as_list() + rows.shape.as_list()[num_groups + 1 :])


def _sum_of_choices(flat: tf.Tensor, slots: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor:
    """Sums slots [X * Q * C, T] to [*g, S, T], choice by choice: one sum over K costs more."""
    if weights is None:
        weights = tf.cast(slots >= 0, flat.dtype)
    # [*g, S, K] -> K of [*g, S]
    of_choices = tf.unstack(tf.maximum(slots, 0), axis=-1)
    return tf.add_n(
        [
            # [X * Q * C, T], [*g, S] -> [*g, S, T]. A choice without a slot reads any slot.
            tf.math.multiply_no_nan(tf.gather(flat, slot), weight)
            for slot, weight in zip(of_choices, tf.unstack(weights[..., None], axis=-2))
        ]
    )


def _sum_of_placed(
    flat: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor, weights: tf.Tensor | None
) -> tf.Tensor:
    """Sums slots [X * Q * C, T] to [Q * S, T] where experts choose and most leave a token out."""
    if weights is not None:
        # [X, *g, C] -> [X * Q * C, 1]
        of_slots = tf.reshape(_of_sources(weights, sources), [-1, 1])
        flat = tf.math.multiply_no_nan(flat, of_slots)
    if control_flow_util.GraphOrParentsInXlaContext(tf.get_default_graph()):
        return _sum_in_xla(flat, slots, sources)
    # [*g, S, K] -> [Q * S, K]
    slots = tf.reshape(slots, [-1, slots.shape[-1]])
    # [Q * S, K] -> [N, 2], the N choices that have a slot
    placed = tf.where(slots >= 0)
    # [X * Q * C, T] -> [Q * S, T], in the order of tokens, so that every sum has one order.
    return tf.sparse.segment_sum(
        flat, tf.gather_nd(slots, placed), placed[:, 0], num_segments=slots.shape[0]
    )


def _sum_in_xla(flat: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor) -> tf.Tensor:
    """Sums slots [X * Q * C, T] to [Q * S, T] by shapes that depend on no values, as XLA needs."""
    # [X, *g, C] -> [X * Q * C], the token in each slot, or -1, which is left out of the sum.
    tokens = tf.reshape(tf.where_v2(sources >= 0, sources // slots.shape[-1], -1), [-1])
    return tf.math.unsorted_segment_sum(flat, tokens, math.prod(slots.shape.as_list()[:-1]))


def _of_sources(values: tf.Tensor, sources: tf.Tensor) -> tf.Tensor:
    """Gathers values of choices [*g, S, K] into slots [X, *g, C]; empty slots get 0."""
    # [Q * S * K], [X, *g, C] -> [X, *g, C]
    found = tf.gather(tf.reshape(values, [-1]), tf.maximum(sources, 0))
    return tf.where_v2(sources >= 0, found, tf.zeros([], values.dtype))


def _flat(tensor: tf.Tensor, num_leading: int) -> tf.Tensor:
    """Reshapes a tensor with so many dimensions of rows to [rows, T]."""
    trailing = tensor.shape.as_list()[num_leading:]
    # [*rows, *T] -> [rows, T]
    return tf.reshape(tensor, [-1, math.prod(trailing)])


def _beside(of_rows: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Reshapes a number for each row to as many dimensions as the rows have."""
    extra = len(rows.shape) - len(of_rows.shape)
    # [...] -> [..., 1, 1]
    return tf.reshape(of_rows, of_rows.shape.as_list() + [1] * extra)
