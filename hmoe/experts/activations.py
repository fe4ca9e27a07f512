"""Activations of experts: those of Mesh TensorFlow, the common ones in fewer passes over memory.

Hidden layers are the largest tensors of a mixture, so that every pass over them takes time. Mesh
TensorFlow makes an operation of each product and sum, and computes cubes as powers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hmoe.compat.stack import mtf, tf

LINEAR = "linear"

_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


def is_known(name: object) -> bool:
    """Returns whether there is an activation of this name."""
    return name == LINEAR or (isinstance(name, str) and callable(getattr(mtf, name, None)))


def activate(name: str, x: mtf.Tensor) -> mtf.Tensor:
    """Applies an activation to each number of a tensor.

    Args:
      name: a function of Mesh TensorFlow such as "relu", "gelu" (with tanh) or "swish", or
        "linear".
      x: a tensor of any shape.
    """
    if name == LINEAR:
        return x
    if name not in _OWN:
        return getattr(mtf, name)(x)
    forward, backward = _OWN[name]
    return _of_each(
        forward,
        [x],
        lambda operation, dy: [
            _of_each(
                backward, [operation.inputs[0], operation.outputs[0], dy], 0, f"{name}_gradient"
            )
        ],
        name,
    )


def _of_each(
    function: Callable, tensors: list[mtf.Tensor], gradient: Callable | int, name: str
) -> mtf.Tensor:
    return mtf.slicewise(
        function,
        tensors,
        splittable_dims=tensors[0].shape.dims,
        grad_function=gradient,
        name=name,
    )


# Gradients take what was given, what came out, and the gradient of that.


def _relu_gradient(x: tf.Tensor, y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    # Of what came out, so that this can be written over what was given.
    del x
    return tf.raw_ops.ReluGrad(gradients=dy, features=y)


def _gelu(x: tf.Tensor) -> tf.Tensor:
    """Returns GELU with tanh (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1.0 + _gelu_tanh(x))


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return tf.tanh(_GELU_SCALE * x * (1.0 + _GELU_CUBIC * tf.square(x)))


def _gelu_gradient(x: tf.Tensor, y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    del y
    tanh = _gelu_tanh(x)
    inner = _GELU_SCALE * (1.0 + 3.0 * _GELU_CUBIC * tf.square(x))
    return dy * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tf.square(tanh)) * inner)


def _swish(x: tf.Tensor) -> tf.Tensor:
    """Returns swish (Ramachandran et al. 2017)."""
    return x * tf.sigmoid(x)


def _swish_gradient(x: tf.Tensor, y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    sigmoid = tf.sigmoid(x)
    return dy * (sigmoid + y * (1.0 - sigmoid))


_OWN = {
    "relu": (tf.nn.relu, _relu_gradient),
    "gelu": (_gelu, _gelu_gradient),
    "swish": (_swish, _swish_gradient),
}
