"""Operations that each device does by itself and that Mesh TensorFlow lacks or builds from many.

TensorFlow takes time to prepare and to start each operation, on each device.
"""

from __future__ import annotations

from collections.abc import Callable

from hmoe.compat.stack import mtf, tf


def indicator(
    compare: Callable[[tf.Tensor, float], tf.Tensor], x: mtf.Tensor, number: float
) -> mtf.Tensor:
    """Returns 1 where compare(x, number) holds, such as `tf.greater`, else 0. No gradient.

    The result is float32, of the shape of x.
    """
    return mtf.slicewise(
        lambda x: tf.cast(compare(x, number), tf.float32),
        [x],
        output_dtype=tf.float32,
        splittable_dims=x.shape.dims,
        grad_function=0,
        name="indicator",
    )


def where_real(x: mtf.Tensor, importance: mtf.Tensor) -> mtf.Tensor:
    """Keeps tokens of importance above 0 and sets padding to 0, in values and in gradients.

    Padding is selected and not multiplied away, so that NaN or infinity in it reaches nothing.

    Args:
      x: [..., *trailing].
      importance: float32 [...].
    """

    def select(x: tf.Tensor, importance: tf.Tensor) -> tf.Tensor:
        # [...] -> [..., 1], with a 1 for each of the trailing dimensions of x
        ones = [1] * (len(x.shape) - len(importance.shape))
        real = tf.reshape(importance > 0, importance.shape.as_list() + ones)
        return tf.where_v2(real, x, tf.zeros([], x.dtype))

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor | None]:
        return [where_real(dy, operation.inputs[1]), None]

    return mtf.slicewise(
        select,
        [x, importance],
        output_shape=x.shape,
        output_dtype=x.dtype,
        splittable_dims=x.shape.dims,
        grad_function=gradient,
        name="where_real",
    )


def softmax(logits: mtf.Tensor) -> mtf.Tensor:
    """Returns `mtf.softmax` over the last dimension, which must not be split, to the last bit."""

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor]:
        back = mtf.slicewise(
            _softmax_gradient,
            [operation.inputs[0], operation.outputs[0], dy],
            splittable_dims=rows,
            grad_function=0,
            name="softmax_gradient",
        )
        return [back]

    rows = logits.shape.dims[:-1]
    return mtf.slicewise(
        # [..., X], [..., 1] -> [..., X]
        lambda x: tf.exp(x - _log_sum_exp(x)[..., None]),
        [logits],
        splittable_dims=rows,
        grad_function=gradient,
        name="softmax",
    )


def log_sum_exp(logits: mtf.Tensor) -> mtf.Tensor:
    """Returns `mtf.reduce_logsumexp` over the last dimension, which must not be split."""

    def gradient(operation: mtf.Operation, dy: mtf.Tensor) -> list[mtf.Tensor]:
        back = mtf.slicewise(
            _log_sum_exp_gradient,
            [operation.inputs[0], dy],
            splittable_dims=rows,
            grad_function=0,
            name="log_sum_exp_gradient",
        )
        return [back]

    rows = logits.shape.dims[:-1]
    return mtf.slicewise(
        _log_sum_exp,
        [logits],
        output_shape=mtf.Shape(rows),
        splittable_dims=rows,
        grad_function=gradient,
        name="log_sum_exp",
    )


def unstacked(tensor: mtf.Tensor, dim: mtf.Dimension) -> list[mtf.Tensor]:
    """Returns `mtf.unstack`, whose own gradient fails where one of the parts is not used."""
    shape = tensor.shape - dim
    return [
        mtf.reshape(mtf.slice(tensor, number, 1, dim.name), shape) for number in range(dim.size)
    ]


def _softmax_gradient(x: tf.Tensor, y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    of_each = dy * y
    # [..., X] -> [...] -> [..., X]
    return of_each - _log_sum_exp_gradient(x, tf.reduce_sum(of_each, axis=-1))


def _log_sum_exp(x: tf.Tensor) -> tf.Tensor:
    # [..., X] -> [..., 1]
    largest = tf.reduce_max(x, axis=-1, keepdims=True)
    # [..., X] -> [...]
    return tf.math.log(tf.reduce_sum(tf.exp(x - largest), axis=-1)) + largest[..., 0]


def _log_sum_exp_gradient(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    exp = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    # [..., X], [..., 1] -> [..., X]
    return exp * (dy * tf.math.reciprocal(tf.reduce_sum(exp, axis=-1)))[..., None]
