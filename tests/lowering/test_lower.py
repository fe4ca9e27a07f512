"""Fewer TensorFlow operations in a lowered graph, of the same meaning."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.lowering import lower as lowering_lib  # noqa: E402

A, B, C = (mtf.Dimension(name, size) for name, size in zip("abc", (2, 3, 4)))


@pytest.mark.parametrize("known", [True, False], ids=["known sizes", "unknown sizes"])
def test_aligned_broadcasts_as_upstream_does(known: bool) -> None:
    every = [
        list(dims) for size in (0, 1, 2, 3) for dims in itertools.permutations([A, B, C], size)
    ]
    with tf.Graph().as_default(), tf.Session() as session:
        for given in every:
            values = np.random.RandomState(0).normal(size=[dim.size for dim in given])
            x = tf.placeholder_with_default(values, [dim.size if known else None for dim in given])
            for order in itertools.permutations([A, B, C]):
                output = mtf.Shape(list(order))
                ours = lowering_lib.aligned(x, mtf.Shape(given), output)
                theirs = mtf.ops._expand_dims(x, mtf.Shape(given), output)
                one = tf.zeros([dim.size for dim in order], tf.float64)
                assert (session.run(ours + one) == session.run(theirs + one)).all()


def test_aligned_leaves_alone_what_broadcasts() -> None:
    with tf.Graph().as_default():
        x = tf.zeros([3, 4])
        assert lowering_lib.aligned(x, mtf.Shape([B, C]), mtf.Shape([A, B, C])) is x
        with pytest.raises(ValueError, match="lacks"):
            lowering_lib.aligned(x, mtf.Shape([B, C]), mtf.Shape([A, B]))


def test_constants_are_shared_by_value_type_and_device() -> None:
    graph = tf.Graph()
    with graph.as_default(), lowering_lib._shared_constants(graph):
        one = tf.constant(1.0)
        assert tf.constant(1.0, name="other") is one
        with tf.device(""):
            assert tf.constant(1.0) is one
        with tf.device("cpu:0"):
            on_cpu = tf.constant(1.0)
            assert tf.constant(1.0) is on_cpu
            assert on_cpu.device == "/device:CPU:0"
        different = [
            tf.constant(2.0),
            tf.constant(1, tf.int32),
            tf.constant([1.0]),
            tf.constant(1.0, shape=[2]),
            on_cpu,
        ]
        assert len({id(each) for each in [one, *different]}) == 6
        with tf.device(lambda op: "cpu:0"):
            assert tf.constant(1.0) is not one
        with tf.control_dependencies([on_cpu]):
            assert list(tf.constant(1.0).op.control_inputs) == [on_cpu.op]
        with tf.colocate_with(on_cpu):
            assert tf.constant(1.0) is not one
    with graph.as_default():
        assert tf.constant(1.0) is not tf.constant(1.0)


def test_constants_of_a_loop_are_its_own() -> None:
    graph = tf.Graph()
    with graph.as_default(), lowering_lib._shared_constants(graph):
        one = tf.constant(1.0)
        inside = []

        def body(x: tf.Tensor) -> tf.Tensor:
            inside.append(tf.constant(1.0))
            return x + inside[-1]

        total = tf.while_loop(lambda x: x < 10.0, body, [one], back_prop=False)
        assert inside[0] is not one
        with tf.Session() as session:
            assert session.run(total) == 10.0


@pytest.mark.parametrize("reuse_graph", [True, False], ids=["reused", "anew"])
def test_a_mesh_that_does_not_reuse_its_graph_builds_every_slice_as_upstream(
    reuse_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def square(x: tf.Tensor) -> tf.Tensor:
        calls.append(x)
        return tf.square(x) + 1.0

    aligned = []
    before = mtf.ops._expand_dims

    def upstream(*args: Any) -> tf.Tensor:
        aligned.append(args)
        return before(*args)

    monkeypatch.setattr(mtf.ops, "_expand_dims", upstream)
    values = np.random.RandomState(0).normal(size=[8, 3]).astype(np.float32)
    rows = mtf.Dimension("rows", 8)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        x = mtf.import_tf_tensor(mesh, tf.identity(values), mtf.Shape([rows, B]))
        squares = mtf.cwise(square, [x])
        y = squares + mtf.ones(mesh, mtf.Shape([rows]))
        mesh_impl = lowering_lib.make_mesh(
            mtf.convert_to_shape("cpus:4"),
            mtf.convert_to_layout_rules("rows:cpus"),
            [""] * 4,
            reuse_graph=reuse_graph,
        )
        lowering = lowering_lib.lower(y, mesh_impl)
        ones = [
            op
            for op in graph.get_operations()
            if op.type == "Const" and tf.make_ndarray(op.get_attr("value")).tolist() == 1.0
        ]
        found = session.run(lowering.export_to_tf_tensor(y))
    np.testing.assert_array_equal(found, np.square(values) + 1.0 + 1.0)
    assert len(calls) == (1 if reuse_graph else 4)
    assert bool(aligned) is not reuse_graph
    assert (len(ones) == 1) is reuse_graph
    assert mtf.ops._expand_dims is upstream
