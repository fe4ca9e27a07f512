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


def unstacked(tensor: mtf.Tensor, dim: mtf.Dimension) -> list[mtf.Tensor]:
    """Splits a tensor along a dimension into its parts, some of which may stay unused.

    The gradient of `mtf.unstack` fails for those.
    """
    shape = tensor.shape - dim
    return [
        mtf.reshape(mtf.slice(tensor, number, 1, dim.name), shape) for number in range(dim.size)
    ]
