"""Operations that each device does by itself."""

from __future__ import annotations

import numpy as np

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.mesh.local_ops import indicator  # noqa: E402
from tests import meshes  # noqa: E402

ROWS, X = mtf.Dimension("rows", 7), mtf.Dimension("experts", 5)


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
