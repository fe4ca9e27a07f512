"""Our layer and Mesh TensorFlow's own ones: the same tokens, weights and groups."""

from __future__ import annotations

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks.sides import seeded
from benchmarks.sides.sessions import InSession, packages
from benchmarks.sizes import Size
from hmoe import compat
from hmoe.compat.stack import mtf

compat.behave_like_v1()

from mesh_tensorflow.transformer import moe as upstream  # noqa: E402

import hmoe  # noqa: E402

TWO_AXES = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"


class NamedLayer(InSession):
    """A layer on named dimensions; timed are its outputs, loss and all gradients.

    The objective is sum(outputs * direction) + loss, with a fixed direction.
    """

    def __init__(self, dtype="float32", mesh_shape="", **size):
        self.size = Size(**size)
        self._mesh_shape = mesh_shape
        self._layout = TWO_AXES if mesh_shape else ""
        super().__init__(dtype)

    def layer(self, inputs, output_dim, variable_dtype):
        """(outputs, loss) of the layer."""
        raise NotImplementedError

    def _variables(self):
        size = self.size
        self._named = mtf.Graph()
        mesh = mtf.Mesh(self._named, "mesh")
        dims = [
            mtf.Dimension(name, getattr(size, name))
            for name in ("outer_batch", "batch", "length", "d_model")
        ]
        shape = mtf.Shape(dims)
        inputs, direction = (
            mtf.import_tf_tensor(mesh, tensor.read_value(), shape)
            for tensor in self._fixed(shape.to_integer_list)
        )
        inputs = mtf.cast(inputs, self._dtype)
        outputs, loss = self.layer(
            inputs, dims[-1], mtf.VariableDType(tf.float32, tf.float32, self._dtype)
        )
        objective = loss + mtf.reduce_sum(mtf.cast(outputs, tf.float32) * direction)
        weights = {
            variable.name: variable.outputs[0] for variable in self._named.trainable_variables
        }
        of = dict(weights, inputs=inputs)
        gradients = dict(zip(of, mtf.gradients([objective], list(of.values()))))
        engine = mtf.placement_mesh_impl.PlacementMeshImpl(
            mtf.convert_to_shape(self._mesh_shape or []),
            mtf.convert_to_layout_rules(self._layout or []),
            [""] * mtf.convert_to_shape(self._mesh_shape or []).size,
        )
        self._lowering = lowering = mtf.Lowering(self._named, {mesh: engine})
        wanted = {
            "outputs": outputs,
            "loss": loss,
            **{f"gradients/{name}": g for name, g in gradients.items()},
        }
        # Of each device its own part, as an optimizer would take it.
        self._timed = [
            lowering.tensors[t].to_laid_out_tensor().tensor_list for t in wanted.values()
        ]
        self._compared = {
            name: tf.cast(lowering.export_to_tf_tensor(t), tf.float32) for name, t in wanted.items()
        }

    def _fixed(self, shape):
        self._inputs = self.variable("given_inputs", shape)
        self._direction = self.variable("given_direction", shape)
        return self._inputs, self._direction

    def _load(self):
        self.load(self._square, seeded.normal("square", self._square.shape.as_list()))
        self.load(self._inputs, seeded.normal("inputs", self._inputs.shape.as_list()))
        self.load(self._direction, seeded.normal("direction", self._direction.shape.as_list()))
        for variable in self._named.trainable_variables:
            for master in getattr(variable, "_masters", None) or [variable.get_master()]:
                self.load(master, seeded.weights(master.op.name, master.shape.as_list()))
        self._session.run(self._lowering.copy_masters_to_slices())

    def compare(self, path):
        np.savez(path, **self._session.run(self._compared))

    def describe(self):
        size = self.size
        return {
            "library": "TensorFlow",
            "dtype": self._dtype.name,
            "tokens": size.tokens,
            "slots": size.slots,
            "matrices": 2,
            "flops": size.flops(),
            "groups": size.groups,
            "operations": len(self.graph.get_operations()),
            "packages": packages("mesh-tensorflow"),
        }


class Ours(NamedLayer):
    """`hmoe.HierarchicalMoE` with top-2 routers of policy "all", or with another router."""

    def __init__(self, router="top_2", metrics="brief", **settings):
        self._router, self._metrics = router, metrics
        super().__init__(**settings)

    def layer(self, inputs, output_dim, variable_dtype):
        size = self.size
        names = ("outer", "inner")
        levels = [
            hmoe.Level(
                name=name,
                num_experts=experts,
                group_size=group,
                capacity_factor_train=factor,
                **self._routing(),
            )
            for name, experts, group, factor in zip(
                names, size.experts, size.groups, size.capacity_factors
            )
        ]
        experts = hmoe.FeedForwardExperts(
            hidden_size=size.hidden, use_bias=self._router == "expert_choice"
        )
        layer = hmoe.HierarchicalMoE(
            levels=levels, experts=experts, metrics=self._metrics, exact_groups=True
        )
        result = layer(
            inputs,
            output_dim,
            train=True,
            mesh_shape=self._mesh_shape,
            layout=self._layout,
            variable_dtype=variable_dtype,
        )
        return result.outputs, result.loss

    def _routing(self):
        if self._router == "top_2":
            # Losses as Mesh TensorFlow averages them, so that the numbers compare.
            return {
                "router": hmoe.TopKRouter(k=2, policy_train="all"),
                "balance_loss_mean_over": "positions",
            }
        # As Model Garden's layer has it.
        router = hmoe.ExpertChoiceRouter(softmax_over="experts", gate=hmoe.Gate(use_bias=True))
        return {"router": router, "z_loss_coef": 0.01}


class Upstream(NamedLayer):
    """`transformer_moe_layer_v1` or `_v2`, by the number of levels."""

    def layer(self, inputs, output_dim, variable_dtype):
        size = self.size
        one_level = len(size.experts) == 1
        hparams = upstream.HParams(
            moe_gating="top_2",
            moe_num_experts=size.experts[0] if one_level else size.experts,
            moe_loss_coef=0.01,
            moe_hidden_size=size.hidden,
            moe_group_size=size.group,
            moe_min_expert_capacity=4,
            moe_capacity_factor_train=size.capacity_factors[0],
            moe_capacity_factor_eval=2.0,
            moe_capacity_factor_second_level=(size.capacity_factors[-1]),
            moe_use_second_place_loss=False,
            moe_second_policy_train="all",
            moe_second_policy_eval="all",
            moe_second_threshold_train=0.2,
            moe_second_threshold_eval=0.2,
            moe_dropout_rate=0.0,
            moe_use_experts_attention=False,
            # Two that upstream's own MoE2D forgets.
            moe_word_embed_mode=None,
            moe_z_loss=None,
            moe_use_second_place_expert_prob=None,
            moe_use_second_place_expert_prob_temp=None,
        )
        function = (
            upstream.transformer_moe_layer_v1 if one_level else upstream.transformer_moe_layer_v2
        )
        everywhere = mtf.ones(inputs.mesh, mtf.Shape(inputs.shape.dims[:-1]), inputs.dtype)
        return function(
            inputs,
            output_dim,
            hparams,
            True,
            variable_dtype,
            layout=self._layout,
            mesh_shape=self._mesh_shape,
            nonpadding=everywhere,
            num_microbatches=1,
        )
