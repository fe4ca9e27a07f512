"""A whole T5 whose feed-forward layers are dense, our experts, or Mesh TensorFlow's `MoE1D`."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import tensorflow.compat.v1 as tf

import hmoe.t5  # noqa: F401  (registers what gin files name)
from benchmarks.sides import seeded, t5_settings
from benchmarks.sides.sessions import InSession, packages
from hmoe import compat
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import TRAIN

compat.behave_like_v1()

# Gin files of the feed-forward layers, and more bindings.
LAYERS = {
    "dense": (["models/_dense.gin"], []),
    "two_levels": (["models/_hierarchical.gin"], ["outer/hmoe.Level.capacity_factor_train = 1.0"]),
    "one_level": (["models/_one_level.gin"], ["flat/hmoe.Level.capacity_factor_train = 1.0"]),
    "MoE1D": (
        [],
        [
            "import mesh_tensorflow.transformer.moe",
            "expert_layer = @MoE1D",
            "MoE1D.num_experts = %num_experts",
            "MoE1D.hidden_size = %d_ff",
            "MoE1D.group_size = %group_size",
            "MoE1D.capacity_factor_train = 1.0",
            "MoE1D.second_policy_train = 'all'",
        ],
    ),
}


@dataclasses.dataclass
class Recorded:
    """An optimizer that remembers the gradients it was given."""

    optimizer: object
    gradients: dict = dataclasses.field(default_factory=dict)

    def __call__(self, **settings):
        self.optimizer = self.optimizer(**settings)
        return self

    def apply_grads(self, gradients, variables):
        self.gradients = {
            _name(variable.name): gradient for gradient, variable in zip(gradients, variables)
        }
        return self.optimizer.apply_grads(gradients, variables)


def _name(variable: str) -> str:
    """The same for our layer and theirs, whose class is part of the name."""
    return re.sub(r"/MoE(1D|Layer)/", "/experts/", variable)


class T5(InSession):
    """Bytes in and out, relu everywhere, as many layers in the encoder as in the decoder.

    Args:
      layers: a key of `LAYERS`.
      d_model, d_ff, blocks: sizes of the model; an expert is as wide as the dense layer.
      experts: at each of two levels; the one level of others has their product.
      batch, inputs, targets: sequences, and tokens of each.
      group: tokens that compete for the same buffers, at every level.
      seed: of the sequences. With most (0 to 5 and 7 to 10 were tried) a token is so nearly as well
        off with two experts that rounding decides, and gradients cannot be compared; losses are
        equal to seven digits all the same.
    """

    def __init__(
        self,
        layers,
        d_model=256,
        d_ff=1024,
        blocks=2,
        experts=4,
        batch=64,
        inputs=64,
        targets=32,
        group=1024,
        seed=6,
    ):
        self._layers, self._lengths = layers, {"inputs": inputs, "targets": targets}
        self._batch, self._blocks, self._seed = batch, blocks, seed
        files, bindings = LAYERS[layers]
        self._files = [
            "models/_size_tiny.gin",
            *files,
            "models/_stacks_every_layer.gin",
            "layouts/one_device.gin",
        ]
        self._bindings = [
            *bindings,
            f"d_model = {d_model}",
            f"d_ff = {d_ff}",
            f"d_ff_wide = {d_ff}",
            f"d_kv = {d_model // 4}",
            f"num_blocks = {blocks}",
            f"num_outer_experts = {experts}",
            f"num_inner_experts = {experts}",
            f"num_experts = {experts**2}",
            f"group_size = {group}",
            f"inner_group_size = {group}",
            "hmoe.TopKRouter.policy_train = 'all'",
            # As Mesh TensorFlow averages them, so that the numbers compare.
            "hmoe.Level.balance_loss_mean_over = 'positions'",
            "hmoe.FeedForwardExperts.activation = 'relu'",
            "DenseReluDense.activation = 'relu'",
            f"utils.run.batch_size = {batch}",
            f"utils.run.sequence_length = {self._lengths}",
            # As good as nothing, so that steps do not change what is routed where.
            "utils.run.learning_rate_schedule = 1e-8",
        ]
        super().__init__()

    def _variables(self):
        # Counts steps, as the trainer has it.
        tf.train.create_global_step()
        settings = t5_settings.from_gin(self._files, self._bindings)
        self._recorded = Recorded(settings.optimizer)
        settings = dataclasses.replace(settings, optimizer=self._recorded)
        self._ids = {
            name: self.variable(name, [self._batch, length], tf.int32)
            for name, length in self._lengths.items()
        }
        features = {name: ids.read_value() for name, ids in self._ids.items()}
        graph = build.build_graph(settings, features, TRAIN)
        self._lowering = graph.lowering
        gradients = self._recorded.gradients
        self._timed = [
            graph.loss,
            *(
                self._lowering.tensors[g].to_laid_out_tensor().tensor_list
                for g in gradients.values()
            ),
        ]
        self._with_update = [graph.loss, graph.train_op]
        self._compared = {
            "loss": graph.loss,
            **{
                f"gradients/{name}": self._lowering.export_to_tf_tensor(g)
                for name, g in gradients.items()
            },
        }

    def _load(self):
        self._session.run([tf.global_variables_initializer(), self._square.initializer])
        for ids in self._ids.values():
            draws = np.random.RandomState(self._seed).randint(3, 259, ids.shape.as_list())
            self.load(ids, draws)
        for variable in self._lowering.graph.trainable_variables:
            for master in getattr(variable, "_masters", None) or [variable.get_master()]:
                shape = master.shape.as_list()
                value = (
                    seeded.weights(_name(master.op.name), shape)
                    if len(shape) > 1
                    else (np.ones(shape))
                )
                self.load(master, value)
        self._session.run(self._lowering.copy_masters_to_slices())

    def step(self):
        return {"step": self.seconds(self._timed), "with update": self.seconds(self._with_update)}

    def compare(self, path):
        # Steps that were taken have moved the weights a little.
        with self.graph.as_default():
            self._load()
        np.savez(path, **self._session.run(self._compared))

    def describe(self):
        tokens = self._batch * sum(self._lengths.values())
        return {
            "library": "TensorFlow",
            "dtype": "float32",
            "tokens": tokens,
            "slots": tokens * self._blocks,
            "matrices": 2,
            "operations": len(self.graph.get_operations()),
            "packages": packages("mesh-tensorflow", "t5"),
        }
