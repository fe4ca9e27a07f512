"""The training step of a small layer of two levels, to be lowered onto meshes of two axes."""

from __future__ import annotations

from typing import NamedTuple

import hmoe
from hmoe.compat.stack import mtf, tf
from tests import graphs, meshes, seeded


class TwoLevelStep(NamedTuple):
    """The step.

    Attributes:
      mesh: the mesh of its graph.
      loss: what is minimised.
      updates: assign the weights.
    """

    mesh: mtf.Mesh
    loss: mtf.Tensor
    updates: list[mtf.Operation]


def two_level_step(sizes: mtf.Shape) -> TwoLevelStep:
    """Builds the step into a new graph of named dimensions, for a mesh of these sizes."""
    rows, cols = sizes.to_integer_list
    dims = (("outer_batch", 2 * rows), ("batch", 3 * cols), ("length", 4), ("d_model", 5))
    graphs.read_variables_once()
    tf.train.create_global_step()
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    x = graphs.constant(mesh, seeded.tokens_of(dims), graphs.mtf_dims(dims))
    layer = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(name="outer", num_experts=3 * cols, router=hmoe.TopKRouter(k=2)),
            hmoe.Level(name="inner", num_experts=2 * rows, router=hmoe.TopKRouter(k=2)),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=7),
    )
    d_out = mtf.Dimension("d_out", 6)
    result = layer(x, d_out, train=True, mesh_shape=sizes, layout=meshes.TWO_AXES)
    loss = mtf.reduce_sum(mtf.square(result.outputs)) + result.loss
    variables = mesh.graph.trainable_variables
    gradients = mtf.gradients([loss], [v.outputs[0] for v in variables])
    updates = [mtf.assign(v, v.value - g) for v, g in zip(variables, gradients)]
    return TwoLevelStep(mesh, loss, updates)
