"""TF Model Garden's mixture of experts, in which experts choose tokens."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf
import tf_keras
from official.nlp.modeling.layers import moe

from benchmarks.sides import seeded
from benchmarks.sides.sessions import packages
from benchmarks.sizes import PEAK_SIZE, Size

Z_WEIGHT = 0.01

# Our names of its variables.
NAMES = {
    "router_weights/kernel:0": "expert_selection_gating/kernel",
    "router_weights/bias:0": "expert_selection_gating/bias",
    "experts/intermediate/kernel:0": "wi/kernel",
    "experts/intermediate/bias:0": "wi/bias",
    "experts/output/kernel:0": "wo/kernel",
    "experts/output/bias:0": "wo/bias",
}


class ExpertChoice:
    """`MoeLayer` with `ExpertsChooseMaskedRouter`, in a `tf.function`."""

    def __init__(self, **size):
        self.size = size = Size(**size)
        (experts,), (factor,) = size.experts, size.capacity_factors
        self._layer = moe.MoeLayer(
            moe.FeedForwardExperts(experts, size.hidden, activation=tf_keras.activations.relu),
            moe.ExpertsChooseMaskedRouter(experts, router_z_loss_weight=Z_WEIGHT),
            train_capacity_factor=factor,
            examples_per_group=size.groups[0] / size.length,
        )
        shape = [size.batch, size.length, size.d_model]
        self._inputs = tf.Variable(seeded.normal("inputs", shape))
        self._direction = tf.Variable(seeded.normal("direction", shape))
        self._square = tf.Variable(seeded.normal("square", [PEAK_SIZE, PEAK_SIZE]))
        self._layer(self._inputs, training=False)
        self._variables = {}
        for variable in self._layer.trainable_variables:
            name = next(ours for end, ours in NAMES.items() if variable.name.endswith(end))
            # Their biases of experts have a dimension of 1 for the slots.
            shape = [n for n in variable.shape if n > 1] if "bias" in name else variable.shape
            variable.assign(seeded.weights(name, shape).reshape(variable.shape))
            self._variables[name] = variable
        self._run = tf.function(self._gradients)
        self._multiply = tf.function(lambda: tf.matmul(self._square, self._square))
        self._multiply()

    def _gradients(self):
        inputs = self._inputs.read_value()
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = self._layer(inputs, training=True)
            loss = tf.add_n(self._layer.losses)
            objective = loss + tf.reduce_sum(outputs * self._direction)
        of = dict(self._variables, inputs=inputs)
        gradients = tape.gradient(objective, of)
        return {
            "outputs": outputs,
            "loss": loss,
            **{f"gradients/{name}": tf.convert_to_tensor(g) for name, g in gradients.items()},
        }

    def step(self) -> float:
        started = time.perf_counter()
        self._run()
        return time.perf_counter() - started

    def peak(self) -> float:
        started = time.perf_counter()
        self._multiply()
        return 2 * PEAK_SIZE**3 / (time.perf_counter() - started)

    def compare(self, path):
        arrays = {name: value.numpy() for name, value in self._run().items()}
        np.savez(
            path,
            **{
                name: value.squeeze() if name.endswith("bias") else value
                for name, value in arrays.items()
            },
        )

    def describe(self):
        size = self.size
        return {
            "library": "TensorFlow",
            "dtype": "float32",
            "tokens": size.tokens,
            "slots": size.slots,
            "matrices": 2,
            "flops": size.flops(),
            "groups": size.groups,
            "packages": packages("tf_keras", "tf-models-official"),
        }
