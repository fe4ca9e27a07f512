"""How a bias moves against the load, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.routing.balancing import BiasUpdate
from tests import graphs, meshes, tolerances


def moved(load, rate=0.5):
    """A bias of zeros after one step, [*outer, X]."""
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        dims = [mtf.Dimension(f"expert_{i}", size) for i, size in enumerate(np.shape(load))]
        bias = mtf.get_variable(
            mesh,
            "balance_bias",
            mtf.Shape(dims),
            trainable=False,
            initializer=tf.zeros_initializer(),
        )
        update = BiasUpdate(bias, "load", rate).apply(
            graphs.constant(mesh, np.array(load, np.float32), dims)
        )
        lowering = meshes.lower(mesh)
        step, read = lowering.lowered_operation(update), lowering.export_to_tf_tensor(bias)
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            session.run(lowering.copy_masters_to_slices())
            session.run(step)
            return session.run(read)


@pytest.mark.parametrize(
    ("load", "step"),
    [
        ([3, 1, 2], [-0.5, 0.5, 0]),
        ([2, 2, 2], [0, 0, 0]),
        # Signs are -1, 1, 1, 1 with a mean of a half, which is taken off.
        ([9, 1, 1, 1], [-0.75, 0.25, 0.25, 0.25]),
        ([[5, 1], [0, 0], [1, 2]], [[-0.5, 0.5], [0, 0], [0.5, -0.5]]),
    ],
)
def test_bias_falls_where_the_load_is_above_the_mean_of_its_siblings(load, step):
    tolerances.assert_close(moved(load), step, tolerances.SAME)


def test_expert_of_exactly_the_mean_load_moves_only_by_the_mean_of_the_others():
    # In float32, 21 times the nearest number to 1 / 7 is not 3.
    step = np.array([1, 1, -1, 0, 0, 0, 0]) - 1 / 7
    tolerances.assert_close(moved([1, 2, 6, 3, 3, 3, 3]), 0.5 * step, tolerances.SAME)
