"""Builds a layer on a simulated mesh, with weights by name, and runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.routing import balancing
from tests import graphs, meshes, seeded
from tests.seeded import Dims

# Adafactor's first steps move each weight by about the learning rate, whatever its gradient. Where
# that is 0 but for rounding (the weight of a partial token's only choice is 1), rounding would
# decide the direction, so squared gradients are damped.
LEARNING_RATE = 2e-3
DAMPING = 1e-5


@dataclasses.dataclass
class Run:
    """The numbers that one session gave.

    Attributes:
      outputs: float32; several outputs stand side by side in the last dimension.
      losses: by the name of the level and the kind of loss.
      loss: the sum of the losses.
      sums: metric sums, by name.
      gradients: of the objective, by variable, and by "inputs" and "embeddings".
      weights: of the run, by variable.
      counters: what the lowering counted, in the order of the graph.
      graph: the graph of named dimensions.
      after: weights after the optimizer's steps, if there were any.
      slices: the shape that one device holds of each variable.
    """

    outputs: np.ndarray
    losses: dict[str, np.ndarray]
    loss: float
    sums: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    counters: list[tuple[str, float]]
    graph: mtf.Graph
    after: dict[str, np.ndarray]
    slices: dict[str, tuple[int, ...]]


def run_layer(layer: Callable, x: np.ndarray, dims: Dims, **how: Any) -> Run:
    """Runs a layer for one array of inputs; see `run_layer_each`."""
    return run_layer_each(layer, [x], dims, **how)[0]


def run_layer_each(
    layer: Callable,
    inputs: Sequence[np.ndarray],
    dims: Dims,
    *,
    mesh_shape: str = "",
    layout: str = "",
    gradients: bool = True,
    steps: int = 0,
    global_step: int = 0,
    values: graphs.Values = seeded.weights_of,
    **call: Any,
) -> list[Run]:
    """Builds one layer and runs it for each of the inputs.

    The objective is sum(outputs * fixed numbers) + losses.

    Args:
      layer: an `hmoe.HierarchicalMoE`, or a function of the same arguments that returns
        something with the fields of an `hmoe.MoEResult`.
      inputs: arrays to run one after another; steps of an optimizer follow the last.
      dims: names and sizes of all dimensions of the inputs.
      mesh_shape: shape of a simulated mesh.
      layout: layout rules.
      gradients: whether to compute the gradients of all variables and of the inputs.
      steps: steps of Adafactor.
      global_step: number of the step, from which random numbers follow.
      values: returns the weights by name and shape.
      **call: the other arguments of `_build`, and of the layer.

    Returns:
      A run for each of the inputs.
    """
    with tf.Graph().as_default():
        graphs.read_variables_once()
        step = tf.train.create_global_step()
        built = _build(layer, inputs[0], dims, mesh_shape=mesh_shape, layout=layout, **call)
        variables = {v.name: v.outputs[0] for v in graphs.model_variables(built.graph)}
        slopes = built.gradients() if gradients or steps else {}
        as_float = {name: mtf.cast(each, tf.float32) for name, each in slopes.items()}
        updates = built.updates(slopes) if steps else []
        engine = meshes.implementation(mesh_shape, layout)
        slices = {name: tuple(engine.slice_shape(each.shape)) for name, each in variables.items()}
        lowering = meshes.lower(built.mesh, mesh_shape, layout)
        counters = list(lowering.counters)
        wanted = {
            "outputs": built.outputs,
            "losses": dict(built.result.losses),
            "loss": built.loss,
            "sums": dict(built.result.metrics),
            "gradients": as_float,
            "weights": variables,
        }
        fetched = tf.nest.map_structure(lowering.export_to_tf_tensor, wanted)
        update = tf.group([lowering.lowered_operation(op) for op in updates])
        meshes.finish(lowering, [fetched, update])
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            graphs.load_weights(session, lowering, values)
            step.load(global_step, session)
            got = [session.run(fetched, {built.fed: x}) for x in inputs]
            for number in range(steps):
                session.run(update)
                step.load(global_step + number + 1, session)
            after = session.run(fetched["weights"]) if steps else {}
    return [
        Run(
            **{**each, "loss": float(each["loss"])},
            counters=counters,
            graph=built.graph,
            after=after,
            slices=slices,
        )
        for each in got
    ]


@dataclasses.dataclass
class _Built:
    """A layer in its graph.

    Attributes:
      fed: placeholder of the inputs.
      given: the tensors beside the variables whose gradients are wanted, by name.
      result: what the layer returned.
      outputs: float32, one tensor.
      loss: the sum of the losses.
    """

    fed: tf.Tensor
    given: dict[str, mtf.Tensor]
    result: hmoe.MoEResult
    outputs: mtf.Tensor
    loss: mtf.Tensor

    @property
    def mesh(self) -> mtf.Mesh:
        return self.outputs.mesh

    @property
    def graph(self) -> mtf.Graph:
        return self.outputs.graph

    def gradients(self) -> dict[str, mtf.Tensor]:
        """Returns the gradients of the objective by name; trainable variables come first."""
        dims = self.outputs.shape.dims
        direction = seeded.direction_of([dim.size for dim in dims])
        weighted = self.outputs * graphs.constant(self.mesh, direction, dims)
        objective = mtf.reduce_sum(weighted) + self.loss
        tensors = {v.name: v.outputs[0] for v in self.graph.trainable_variables}
        tensors.update(self.given)
        found = mtf.gradients([objective], list(tensors.values()))
        return {name: each for name, each in zip(tensors, found) if each is not None}

    def updates(self, slopes: dict[str, mtf.Tensor]) -> list[mtf.Operation]:
        """Returns a step of Adafactor, and of the balance biases."""
        optimizer = mtf.optimize.AdafactorOptimizer(
            learning_rate=LEARNING_RATE, epsilon1=DAMPING, multiply_by_parameter_scale=False
        )
        variables = self.graph.trainable_variables
        updates = optimizer.apply_grads([slopes.get(v.name) for v in variables], variables)
        return updates + balancing.apply_all(self.result.bias_updates, self.result.metrics)


def _build(
    layer: Callable,
    x: np.ndarray,
    dims: Dims,
    *,
    importance: np.ndarray | None = None,
    embeddings: np.ndarray | None = None,
    output_size: int = 13,
    train: bool = True,
    dtype: tf.DType = tf.float32,
    **call: Any,
) -> _Built:
    """Builds a layer in the default graph.

    Args:
      layer: see `run_layer_each`.
      x: inputs, which may be fed anew.
      dims: names and sizes of all dimensions of the inputs.
      importance: importance of the tokens, of their leading dimensions.
      embeddings: embeddings of the tokens' words, of the shape of the inputs.
      output_size: size of the output dimension.
      train: whether the layer trains.
      dtype: type of the activations.
      **call: further arguments of the layer.
    """
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    all_dims = graphs.mtf_dims(dims)
    fed = tf.placeholder_with_default(x, x.shape)
    given = {"inputs": mtf.cast(mtf.import_tf_tensor(mesh, fed, mtf.Shape(all_dims)), dtype)}
    if importance is not None:
        call["importance"] = graphs.constant(mesh, importance, all_dims[: importance.ndim])
    if embeddings is not None:
        given["embeddings"] = mtf.cast(graphs.constant(mesh, embeddings, all_dims), dtype)
        call["embeddings"] = given["embeddings"]
    call.setdefault("variable_dtype", mtf.VariableDType(tf.float32, tf.float32, dtype))
    output_dim = mtf.Dimension("d_out", output_size)
    result = layer(given["inputs"], output_dim, train=train, **call)
    return _Built(fed, given, result, _one_output(result.outputs), result.loss)


def _one_output(outputs: mtf.Tensor | list[mtf.Tensor]) -> mtf.Tensor:
    """Returns the outputs in float32, several of them side by side."""
    several = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    several = [mtf.cast(each, tf.float32) for each in several]
    return several[0] if len(several) == 1 else mtf.concat(several, several[0].shape.dims[-1].name)
