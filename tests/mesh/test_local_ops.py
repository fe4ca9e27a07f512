"""Operations on tensors are those of Mesh TensorFlow, in values and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.mesh.local_ops import indicator, log_sum_exp, softmax  # noqa: E402
from tests import meshes, tolerances  # noqa: E402

ROWS, X = mtf.Dimension("rows", 7), mtf.Dimension("experts", 5)


def values_and_gradient(function, logits, weights):
    """The function of logits [rows, X], and the gradient of its weighted sum."""
    with tf.Graph().as_default(), tf.Session() as session:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        x = mtf.import_tf_tensor(mesh, tf.constant(logits), mtf.Shape([ROWS, X]))
        y = function(x)
        of_y = weights if len(y.shape) == 2 else weights[:, 0]
        loss = mtf.reduce_sum(y * mtf.import_tf_tensor(mesh, tf.constant(of_y), y.shape))
        (gradient,) = mtf.gradients([loss], [x])
        lowering = meshes.lower(mesh)
        return session.run([lowering.export_to_tf_tensor(each) for each in (y, gradient)])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (softmax, lambda x: mtf.softmax(x, X)),
        (log_sum_exp, lambda x: mtf.reduce_logsumexp(x, X)),
    ],
    ids=["softmax", "log_sum_exp"],
)
def test_equals_mesh_tensorflow_to_the_last_bit(ours, theirs):
    random = np.random.RandomState(0)
    # Among them experts that are left out, and ties.
    logits = (9.0 * random.normal(size=[7, 5])).astype(np.float32)
    logits[1, 2], logits[3], logits[4, :4] = -1e9, 2.5, -1e9
    weights = random.normal(size=[7, 5]).astype(np.float32)
    mine = values_and_gradient(ours, logits, weights)
    for one, other in zip(mine, values_and_gradient(theirs, logits, weights)):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
    exact = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    expected = (
        exact / exact.sum(-1, keepdims=True)
        if ours is softmax
        else np.log(exact.sum(-1)) + logits.max(-1)
    )
    tolerances.assert_close(mine[0], expected, tolerances.ORACLE)


def test_indicator():
    logits = np.array([[0.0, 0.5, 1.0, 2.0, -1.0]] * 7, np.float32)
    for compare, expected in ((tf.greater, [0, 1, 1, 1, 0]), (tf.equal, [1, 0, 0, 0, 0])):
        with tf.Graph().as_default(), tf.Session() as session:
            mesh = mtf.Mesh(mtf.Graph(), "mesh")
            x = mtf.import_tf_tensor(mesh, tf.constant(logits), mtf.Shape([ROWS, X]))
            y = indicator(compare, x, 0.0)
            assert (y.dtype, y.shape, y.operation.has_gradient) == (tf.float32, x.shape, False)
            lowering = meshes.lower(mesh)
            found = session.run(lowering.export_to_tf_tensor(y))
        assert found.tolist() == [expected] * 7
