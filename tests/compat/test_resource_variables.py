"""Why variables are resource variables: an optimizer step must use the weights it started from."""

from __future__ import annotations

import numpy as np

from hmoe import compat
from hmoe.compat.stack import mtf, tf

compat.behave_like_v1()


def adafactor_step(num_steps: int) -> "tuple[list, list, list]":
    """Trains one weight matrix on a 2 x 2 mesh.

    Returns:
        Weights before each step, the update that the gradient asks for at these weights (read in a
        run of its own, where nothing is assigned), and weights after each step.
    """
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        rows, d_in = mtf.Dimension("rows", 16), mtf.Dimension("d_in", 8)
        d_out = mtf.Dimension("d_out", 24)
        data = np.random.RandomState(0).randn(16, 8).astype(np.float32)
        inputs = mtf.import_tf_tensor(mesh, tf.constant(data), [rows, d_in])
        weights = mtf.get_variable(mesh, "w", [d_in, d_out])
        loss = mtf.reduce_mean(mtf.square(mtf.einsum([inputs, weights], [rows, d_out]) - 1.0))
        gradient = mtf.gradients([loss], [weights])[0]
        optimizer = mtf.optimize.AdafactorOptimizer(
            learning_rate=0.1, multiply_by_parameter_scale=False
        )
        updates = optimizer.apply_grads([gradient], graph.trainable_variables)
        engine = mtf.placement_mesh_impl.PlacementMeshImpl(
            "a:2;b:2", "d_in:a;d_out:b", [""] * 4
        )
        lowering = mtf.Lowering(graph, {mesh: engine})
        with tf.control_dependencies([lowering.lowered_operation(op) for op in updates]):
            train = tf.assign_add(tf.train.get_global_step(), 1)
        wanted = lowering.export_to_tf_tensor(gradient)
        current = lowering.export_to_tf_tensor(weights)
        session.run(tf.global_variables_initializer())
        session.run(lowering.copy_masters_to_slices())
        before, gradients, after = [], [], []
        for _ in range(num_steps):
            before.append(session.run(current))
            gradients.append(session.run(wanted))
            session.run(train)
            after.append(session.run(current))
    return before, gradients, after


def test_variables_are_resource_variables() -> None:
    with tf.Graph().as_default():
        assert tf.get_variable("w", [2]).dtype == tf.float32


def test_step_on_two_by_two_equals_weights_minus_update_of_the_gradient() -> None:
    before, gradients, after = adafactor_step(3)
    second_moment = np.zeros_like(gradients[0])
    for step, (start, gradient, end) in enumerate(zip(before, gradients, after)):
        # Adafactor unfactored (both sizes below 128): decay 1 - t^-0.8 at t = step + 1, the update
        # clipped to root mean square 1.
        decay = 1.0 - (step + 1.0) ** -0.8
        second_moment = decay * second_moment + (1 - decay) * (gradient**2 + 1e-30)
        update = gradient / np.sqrt(second_moment)
        update /= max(1.0, np.sqrt(np.mean(update**2)))
        np.testing.assert_allclose(end, start - 0.1 * update, atol=1e-5)
