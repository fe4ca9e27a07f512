"""Why variables are resource variables, read once: a step must use the weights it started from."""

from __future__ import annotations

import numpy as np

from hmoe import compat
from hmoe.compat.stack import mtf, tf
from tests import graphs, meshes

compat.behave_like_v1()

LEARNING_RATE = 0.1
Weights = dict[str, np.ndarray]


def build_deep_model(num_layers: int) -> tuple[mtf.Lowering, list[mtf.Tensor], tf.Operation]:
    """A chain of matrices on a 2 x 2 mesh: an early gradient still reads the late weights."""
    graph = mtf.Graph()
    mesh = mtf.Mesh(graph, "mesh")
    rows, width = mtf.Dimension("rows", 16), mtf.Dimension("width_0", 24)
    data = np.random.RandomState(0).randn(16, 24).astype(np.float32)
    x = mtf.import_tf_tensor(mesh, tf.constant(data), [rows, width])
    for layer in range(num_layers):
        next_width = mtf.Dimension(f"width_{layer + 1}", 24)
        weights = mtf.get_variable(mesh, f"w{layer}", [width, next_width])
        x, width = mtf.einsum([x, weights], [rows, next_width]), next_width
    loss = mtf.reduce_mean(mtf.square(x - 1.0))
    variables = graph.trainable_variables
    gradients = mtf.gradients([loss], [v.outputs[0] for v in variables])
    optimizer = mtf.optimize.AdafactorOptimizer(
        learning_rate=LEARNING_RATE, multiply_by_parameter_scale=False
    )
    updates = optimizer.apply_grads(gradients, variables)
    lowering = meshes.lower(mesh, "a:2;b:2", "rows:a;width_1:b;width_3:b")
    with tf.control_dependencies([lowering.lowered_operation(op) for op in updates]):
        train = tf.assign_add(tf.train.get_global_step(), 1)
    return lowering, gradients, train


def adafactor_steps(num_steps: int) -> list[tuple[Weights, Weights, Weights]]:
    """For each step: weights before it, gradients there, weights after.

    Gradients are read in a run of its own, in which nothing is assigned.
    """
    steps = []
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        graphs.read_variables_once()
        lowering, gradients, train = build_deep_model(num_layers=6)
        variables = lowering.graph.trainable_variables
        wanted = {v.name: lowering.export_to_tf_tensor(g) for v, g in zip(variables, gradients)}
        current = {v.name: lowering.export_to_tf_tensor(v.outputs[0]) for v in variables}
        session.run(tf.global_variables_initializer())
        session.run(lowering.copy_masters_to_slices())
        for _ in range(num_steps):
            before, grads = session.run(current), session.run(wanted)
            session.run(train)
            steps.append((before, grads, session.run(current)))
    return steps


def test_variables_are_resource_variables() -> None:
    with tf.Graph().as_default():
        variable = tf.get_variable("w", [2])
        assert not variable.op.type.startswith("Variable")
        assert variable.op.type == "VarHandleOp"


def test_step_on_two_by_two_equals_weights_minus_update_of_the_gradient() -> None:
    moments: Weights = {}
    for step, (before, gradients, after) in enumerate(adafactor_steps(5)):
        for name, gradient in gradients.items():
            # Adafactor unfactored (sizes below 128): decay 1 - t^-0.8 at t = step + 1, the update
            # clipped to root mean square 1.
            decay = 1.0 - (step + 1.0) ** -0.8
            squared = (1 - decay) * (gradient**2 + 1e-30)
            moments[name] = decay * moments.get(name, 0.0) + squared
            update = gradient / np.sqrt(moments[name])
            update /= max(1.0, np.sqrt(np.mean(update**2)))
            expected = before[name] - LEARNING_RATE * update
            np.testing.assert_allclose(after[name], expected, atol=2e-5)
