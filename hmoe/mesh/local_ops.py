"""Operations on tensors that Mesh TensorFlow lacks, or makes of many.

TensorFlow takes time to prepare and to start each operation, on each device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hmoe.compat.stack import mtf, tf


@dataclasses.dataclass(frozen=True)
class Local:
    """What `mtf.slicewise` does on a device, such that a mesh can know that it did it before.

    Two with the same function and settings are equal, and build the same operations for
    slices of the same shapes. That holds for no function within a function, since what it
    reads from around it may differ.

    Attributes:
      function: called as function(*settings, *slices).
      settings: of it, each of which can be hashed.
    """

    function: Callable
    settings: tuple = ()

    def __call__(self, *slices: tf.Tensor) -> Any:
        """Calls the function."""
        return self.function(*self.settings, *slices)


def indicator(compare: Callable, x: mtf.Tensor, number: float) -> mtf.Tensor:
    """float32 of the shape of x: 1 where compare(x, number), such as `tf.greater`. No gradient."""
    return mtf.slicewise(
        Local(_indicate, (compare, number)),
        [x],
        output_dtype=tf.float32,
        splittable_dims=x.shape.dims,
        grad_function=0,
        name="indicator",
    )


def where_real(x: mtf.Tensor, importance: mtf.Tensor) -> mtf.Tensor:
    """Keeps tokens of importance above 0 and sets padding to 0, in values and in gradients.

    Selected and not multiplied, so that NaN or infinity in padding reaches nothing.

    Args:
      x: [..., *trailing].
      importance: float32 [...].
    """

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor | None]:
        return [where_real(dy, operation.inputs[1]), None]

    return mtf.slicewise(
        Local(_where_real),
        [x, importance],
        output_shape=x.shape,
        output_dtype=x.dtype,
        splittable_dims=x.shape.dims,
        grad_function=gradient,
        name="where_real",
    )


def softmax(logits: mtf.Tensor) -> mtf.Tensor:
    """As `mtf.softmax`, of the last dimension, which must not be split."""

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor]:
        return [
            mtf.slicewise(
                Local(_softmax_gradient),
                [operation.inputs[0], operation.outputs[0], dy],
                splittable_dims=rows,
                grad_function=0,
                name="softmax_gradient",
            )
        ]

    rows = logits.shape.dims[:-1]
    return mtf.slicewise(
        Local(_softmax), [logits], splittable_dims=rows, grad_function=gradient, name="softmax"
    )


def log_sum_exp(logits: mtf.Tensor) -> mtf.Tensor:
    """As `mtf.reduce_logsumexp`, over the last dimension, which must not be split."""

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor]:
        return [
            mtf.slicewise(
                Local(_log_sum_exp_gradient),
                [operation.inputs[0], dy],
                splittable_dims=rows,
                grad_function=0,
                name="log_sum_exp_gradient",
            )
        ]

    rows = logits.shape.dims[:-1]
    return mtf.slicewise(
        Local(_log_sum_exp),
        [logits],
        output_shape=mtf.Shape(rows),
        splittable_dims=rows,
        grad_function=gradient,
        name="log_sum_exp",
    )


def unstacked(tensor: mtf.Tensor, dim: mtf.Dimension) -> list[mtf.Tensor]:
    """As `mtf.unstack`, whose gradient fails where one of the parts is not used."""
    shape = tensor.shape - dim
    return [
        mtf.reshape(mtf.slice(tensor, number, 1, dim.name), shape) for number in range(dim.size)
    ]


def _indicate(compare: Callable, number: float, x: tf.Tensor) -> tf.Tensor:
    return tf.cast(compare(x, number), tf.float32)


def _where_real(x: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
    # [...] -> [..., 1], as often as x has dimensions behind those of tokens
    extra = [1] * (len(x.shape) - len(importance.shape))
    real = tf.reshape(importance > 0, importance.shape.as_list() + extra)
    return tf.where_v2(real, x, tf.zeros([], x.dtype))


def _softmax(x: tf.Tensor) -> tf.Tensor:
    # As Mesh TensorFlow does, to the last bit.
    return tf.exp(x - _log_sum_exp(x)[..., None])


def _softmax_gradient(x: tf.Tensor, y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    of_each = dy * y
    return of_each - _log_sum_exp_gradient(x, tf.reduce_sum(of_each, axis=-1))


def _log_sum_exp(x: tf.Tensor) -> tf.Tensor:
    largest = tf.reduce_max(x, axis=-1, keepdims=True)
    return tf.math.log(tf.reduce_sum(tf.exp(x - largest), axis=-1)) + largest[..., 0]


def _log_sum_exp_gradient(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    exp = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    return exp * (dy * tf.math.reciprocal(tf.reduce_sum(exp, axis=-1)))[..., None]
