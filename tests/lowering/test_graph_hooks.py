"""The hook on the operations of a graph, alone and one within another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import tf  # noqa: E402
from hmoe.lowering import graph_hooks  # noqa: E402


def test_all_new_operations_go_through_the_function_and_no_later_ones() -> None:
    made = []

    def create(create: Callable, op_type: str, inputs: Any, **keywords: Any) -> Any:
        made.append((op_type, [each.name for each in inputs], keywords["name"]))
        return create(op_type, inputs, **keywords)

    graph = tf.Graph()
    with graph.as_default():
        before = tf.constant(1.0, name="before")
        with graph_hooks.creating(graph, create):
            total = tf.add(before, tf.constant(2.0, name="two"), name="total")
        tf.constant(3.0)
    assert made == [("Const", [], "two"), ("AddV2", ["before:0", "two:0"], "total/")]
    with tf.Session(graph=graph) as session:
        assert session.run(total) == 3.0


def make_and_fail(graph: tf.Graph, create: Callable) -> None:
    with graph_hooks.creating(graph, create):
        tf.constant(1.0)
        raise RuntimeError("inside")


def test_one_within_another_and_errors_leave_all_as_it_was() -> None:
    order = []

    def note(name: str) -> Callable:
        def create(create: Callable, *args: Any, **keywords: Any) -> Any:
            order.append(name)
            return create(*args, **keywords)

        return create

    graph = tf.Graph()
    with graph.as_default():
        with graph_hooks.creating(graph, note("outer")):
            with pytest.raises(RuntimeError, match="inside"):
                make_and_fail(graph, note("inner"))
            tf.constant(2.0)
        tf.constant(3.0)
    assert order == ["inner", "outer", "outer"]


def test_create_makes_what_was_told() -> None:
    told = []

    def create(create: Callable, op_type: str, inputs: Any, **keywords: Any) -> Any:
        told.append((op_type, inputs, keywords))
        return create(op_type, inputs, **keywords)

    graph = tf.Graph()
    with graph.as_default(), tf.Session() as session:
        x, y = tf.constant([[1.0, 2.0]]), tf.constant([[3.0], [4.0]])
        with graph_hooks.creating(graph, create):
            product = tf.matmul(y, y, transpose_a=True)
        op_type, _, keywords = told[-1]
        made = graph_hooks.create(graph, op_type, [x, x], **dict(keywords, name="again"))
        found = session.run([product, made.outputs[0]])
    assert made.name == "again"
    assert [each.tolist() for each in found] == [[[25.0]], [[1.0, 2.0], [2.0, 4.0]]]


def test_surroundings_differ_by_device_control_and_loop() -> None:
    graph = tf.Graph()
    with graph.as_default():
        plain = graph_hooks.surroundings(graph)
        assert graph_hooks.is_plain(graph)
        with tf.device("cpu:0"):
            assert graph_hooks.surroundings(graph) != plain
            assert graph_hooks.is_plain(graph)
        with tf.device(""):
            assert graph_hooks.surroundings(graph) == plain
        with tf.control_dependencies([tf.no_op()]):
            assert graph_hooks.surroundings(graph) != plain
            assert not graph_hooks.is_plain(graph)
        with tf.colocate_with(tf.constant(1.0)):
            assert graph_hooks.surroundings(graph) != plain
            assert not graph_hooks.is_plain(graph)
        inside = []

        def body(x: tf.Tensor) -> tf.Tensor:
            inside.append((graph_hooks.surroundings(graph), graph_hooks.is_plain(graph)))
            return x + 1.0

        tf.while_loop(lambda x: x < 3.0, body, [tf.constant(0.0)])
        assert inside[0][0] != plain
        assert not inside[0][1]
        assert graph_hooks.surroundings(graph) == plain


def test_while_loops_have_names_whatever_stands_between_them() -> None:
    graph = tf.Graph()
    found = []

    def note() -> tf.Tensor:
        found.append(graph_hooks.while_loops(graph))
        return tf.constant(1.0)

    def inner(x: tf.Tensor) -> tf.Tensor:
        return x + note()

    def outer(x: tf.Tensor) -> tf.Tensor:
        loop = tf.while_loop(lambda y: y < 2.0, inner, [x], name="inner")
        return tf.cond(x > 1.0, lambda: loop + note(), lambda: loop)

    with graph.as_default():
        note()
        tf.while_loop(lambda x: x < 3.0, outer, [tf.constant(0.0)], name="outer")
        tf.cond(tf.constant(True), note, lambda: tf.constant(2.0))
    outside, inside, between, beside = found
    assert outside == beside == []
    assert len(inside) == 2
    assert "outer" in inside[0]
    assert "inner" in inside[1]
    assert between == inside[:1]
