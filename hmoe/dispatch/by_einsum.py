"""Moves tokens by multiplying with one-hot tensors [S, X, C], as GShard does.

This costs S * X * C multiplications for each number that is moved. Matrix units multiply faster
than memory gathers rows.

Dimensions: g stands for those of groups, Q for their product, S tokens of a group, K choices, X
experts, C slots, T everything that trails (the depth, and what travels beside it).
"""

from __future__ import annotations

import math

from hmoe.compat.stack import tf
from hmoe.dispatch.slot_sizes import SlotSizes


def slot_index(
    expert: tf.Tensor, position: tf.Tensor, sizes: SlotSizes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Numbers the slots of each group.

    Args:
      expert: int32 [*g, S, K].
      position: int32 [*g, S, K], or -1.
      sizes: X and C.

    Returns:
      `slots` int32 [*g, S, K], the slot x * C + c of each choice, or -1; and `sources` int32
      [X, *g, C], zeros that nothing reads.
    """
    slots = tf.where(position < 0, position, expert * sizes.capacity + position)
    groups = expert.shape.as_list()[:-2]
    return slots, tf.zeros([sizes.num_experts, *groups, sizes.capacity], tf.int32)


def to_slots(rows: tf.Tensor, slots: tf.Tensor, sources: tf.Tensor, sizes: SlotSizes) -> tf.Tensor:
    """Moves tokens [*g, S, *T] into slots [X, *g, C, *T]; empty slots get 0."""
    # [Q, S, T], [Q, S, X, C] -> [X, Q, C, T]
    found = tf.einsum("qst,qsxc->xqct", _grouped(rows, slots), _one_hot(slots, sizes, rows.dtype))
    # [X, Q, C, T] -> [X, *g, C, *T]
    return tf.reshape(found, sources.shape.as_list() + _trailing(rows, slots))


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
    one_hot = _one_hot(slots, sizes, buffers.dtype, weights)
    # [X, Q, C, T], [Q, S, X, C] -> [Q, S, T]
    summed = tf.einsum("xqct,qsxc->qst", _of_slots(buffers, sources), one_hot)
    # [Q, S, T] -> [*g, S, *T]
    return tf.reshape(
        summed, slots.shape.as_list()[:-1] + buffers.shape.as_list()[len(sources.shape) :]
    )


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
    tokens = _grouped(rows, slots)
    # [Q, S, T], [Q, S, X, C] -> [X, Q, C, T]
    found = tf.einsum("qst,qsxc->xqct", tokens, _one_hot(slots, sizes, rows.dtype, weights))
    # [Q, S, T], [X, Q, C, T] -> [Q, S, X, C], the product of each token and each slot
    products = tf.einsum("qst,xqct->qsxc", tokens, _of_slots(buffers, sources))
    # [Q, S, X, C] -> [*g, S, X * C]
    products = tf.reshape(products, [*slots.shape.as_list()[:-1], sizes.num_slots])
    if sizes.in_order:
        # [*g, S, X * C] -> [*g, S, K, C] -> [*g, S, K]
        by_choice = tf.reshape(products, slots.shape.as_list() + [sizes.capacity])
        of_choices = tf.reduce_sum(by_choice * _one_hot_in_order(slots, sizes, rows.dtype), axis=-1)
    else:
        # [*g, S, X * C] -> K of [*g, S] -> [*g, S, K]
        of_choices = tf.stack(
            [
                tf.reduce_sum(
                    products * tf.one_hot(slot, sizes.num_slots, dtype=rows.dtype), axis=-1
                )
                for slot in tf.unstack(slots, axis=-1)
            ],
            axis=-1,
        )
    # [X, Q, C, T] -> [X, *g, C, *T]
    return tf.reshape(found, buffers.shape), of_choices


def choices_to_slots(
    values: list[tf.Tensor], slots: tf.Tensor, sources: tf.Tensor, sizes: SlotSizes
) -> tf.Tensor:
    """Moves F values of choices [*g, S, K] into slots [X, *g, C, F]; empty slots get 0."""
    # [Q, S, X, C] -> [X, Q, C] each
    found = [tf.einsum("qsxc->xqc", _one_hot(slots, sizes, each.dtype, each)) for each in values]
    # F of [X, Q, C] -> [X, *g, C, F]
    return tf.reshape(tf.stack(found, axis=-1), sources.shape.as_list() + [len(values)])


def _one_hot(
    slots: tf.Tensor, sizes: SlotSizes, dtype: tf.DType, values: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns [Q, S, X, C], the value of the choice, or 1, where a token fills a slot."""
    if sizes.in_order:
        one_hot = _one_hot_in_order(slots, sizes, dtype)
        if values is not None:
            one_hot *= values[..., None]
    else:
        # Choice by choice: summing a one-hot tensor over K costs several times as much.
        each = [
            tf.one_hot(slot, sizes.num_slots, dtype=dtype) for slot in tf.unstack(slots, axis=-1)
        ]
        if values is not None:
            each = [one * value[..., None] for one, value in zip(each, tf.unstack(values, axis=-1))]
        one_hot = tf.add_n(each)
    num_tokens: int = slots.shape[-2]
    # [*g, S, X * C] or [*g, S, X, C] -> [Q, S, X, C]
    return tf.reshape(one_hot, [-1, num_tokens, sizes.num_experts, sizes.capacity])


def _one_hot_in_order(slots: tf.Tensor, sizes: SlotSizes, dtype: tf.DType) -> tf.Tensor:
    """Returns [*g, S, X, C] for slots [*g, S, X] where choice j is always expert j."""
    position = slots - tf.range(sizes.num_experts) * sizes.capacity
    return tf.one_hot(tf.where(slots < 0, slots, position), sizes.capacity, dtype=dtype)


def _grouped(rows: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    """Reshapes [*g, S, *T] -> [Q, S, T]."""
    num_tokens: int = slots.shape[-2]
    return tf.reshape(rows, [-1, num_tokens, math.prod(_trailing(rows, slots))])


def _of_slots(buffers: tf.Tensor, sources: tf.Tensor) -> tf.Tensor:
    """Reshapes [X, *g, C, *T] -> [X, Q, C, T]."""
    shape: list[int] = sources.shape.as_list()
    trailing = buffers.shape.as_list()[len(shape) :]
    return tf.reshape(buffers, [shape[0], math.prod(shape[1:-1]), shape[-1], math.prod(trailing)])


def _trailing(rows: tf.Tensor, slots: tf.Tensor) -> list[int]:
    trailing: list[int] = rows.shape.as_list()[len(slots.shape) - 1 :]
    return trailing
