"""The outer batch that is made where a caller has none."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.mesh import batch_dims
from hmoe.mesh.layout import MeshLayout
from tests import graphs, meshes

TWO = MeshLayout("rows:2;cols:3", meshes.TWO_AXES)


def dims(*pairs):
    return graphs.mtf_dims(pairs)


def test_given_outer_batch_is_kept():
    given = dims(("outer_batch", 2), ("batch", 3), ("length", 5))
    made = batch_dims.batch_dims(given, TWO)
    assert (made.inserted, made.outer, made.inner) == (False, given[0], given[1])


@pytest.mark.parametrize(
    ("batch", "size", "outer", "inner"),
    [
        (12, None, ("outer_batch", 2), ("batch", 6)),
        (12, 4, ("outer_batch", 4), ("batch", 3)),
        (9, None, ("outer_batch_unsplit", 1), ("batch", 9)),
    ],
)
def test_made_from_the_batch(batch, size, outer, inner):
    made = batch_dims.batch_dims(dims(("batch", batch), ("length", 5)), TWO, size)
    assert made.inserted
    assert [(d.name, d.size) for d in (made.outer, made.inner)] == [outer, inner]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(
    "rest", [[], [("length", 5)], [("beam", 2), ("length", 5)]], ids=["none", "length", "beam"]
)
def test_there_and_back(size, rest):
    layout = MeshLayout("rows:1", "")
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        all_dims = dims(("batch", 12), *rest, ("d_model", 3))
        values = (
            np.arange(np.prod([d.size for d in all_dims]))
            .reshape([d.size for d in all_dims])
            .astype(np.float32)
        )
        made = batch_dims.batch_dims(all_dims[:-1], layout, size)
        split = made.split(graphs.constant(mesh, values, all_dims))
        back = made.merge(split)
        lowering = meshes.lower(mesh)
        with tf.Session() as session:
            there, again = session.run([lowering.export_to_tf_tensor(t) for t in (split, back)])
    assert back.shape.dims == all_dims
    np.testing.assert_array_equal(again, values)
    # The outer batch is the minor part: example b * size + a.
    for a in range(size):
        np.testing.assert_array_equal(there[a], values[a::size])


@pytest.mark.parametrize(
    ("given", "size", "text"),
    [
        (
            [],
            None,
            "inputs have a depth and no batch dimension; give tokens as [batch, ..., depth] or"
            " [outer_batch, batch, ..., depth]",
        ),
        (
            [("outer_batch", 2)],
            None,
            "inputs have the dimension outer_batch and no batch dimension after it; give tokens as"
            " [outer_batch, batch, ..., depth]",
        ),
        (
            [("batch", 12)],
            3,
            "inserted_outer_batch = 3 cannot be split over the 2 devices of mesh axis"
            " 'rows'; use a multiple, or None",
        ),
        (
            [("batch", 18)],
            4,
            "inserted_outer_batch = 4 does not divide the 18 examples of 'batch' on"
            " each of 3 device(s); use a divisor, or None",
        ),
    ],
)
def test_errors(given, size, text):
    with pytest.raises(ValueError) as error:
        batch_dims.batch_dims(dims(*given), TWO, size)
    assert str(error.value) == text
