"""The experts' matrix multiplies alone: what a layer could reach at best."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from benchmarks.sides import seeded
from benchmarks.sides.sessions import InSession, packages
from benchmarks.sizes import Size
from hmoe import compat

compat.behave_like_v1()


class Bare(InSession):
    """Batched multiplies of as many slots: two forward and four backward, no activation."""

    def __init__(self, dtype="float32", **size):
        self.size = Size(**size)
        super().__init__(dtype)

    def _variables(self):
        size = self.size
        experts, slots = size.num_experts, size.slots // size.num_experts
        shapes = {
            "inputs": [experts, slots, size.d_model],
            "direction": [experts, slots, size.d_model],
            "wi/kernel": [experts, size.d_model, size.hidden],
            "wo/kernel": [experts, size.hidden, size.d_model],
        }
        self._given = {
            name: self.variable(name, shape, self._dtype) for name, shape in shapes.items()
        }
        x, dy, wi, wo = (variable.read_value() for variable in self._given.values())
        hidden = tf.matmul(x, wi)
        of_hidden = tf.matmul(dy, wo, transpose_b=True)
        self._timed = [
            tf.matmul(hidden, wo),
            tf.matmul(hidden, dy, transpose_a=True),
            tf.matmul(x, of_hidden, transpose_a=True),
            tf.matmul(of_hidden, wi, transpose_b=True),
        ]

    def _load(self):
        for variable in (*self._given.values(), self._square):
            shape = variable.shape.as_list()
            self.load(variable, seeded.normal(variable.op.name, shape, shape[-2] ** -0.5))

    def describe(self):
        size = self.size
        return {
            "library": "TensorFlow",
            "dtype": self._dtype.name,
            "tokens": size.tokens,
            "slots": size.slots,
            "matrices": 2,
            "flops": size.flops(),
            "packages": packages(),
        }
