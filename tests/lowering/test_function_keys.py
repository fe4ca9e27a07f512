"""Functions that are known to build the same, and those of which nothing is known."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.lowering.function_keys import meaning  # noqa: E402
from hmoe.lowering.placement import SharingPlacement  # noqa: E402
from hmoe.mesh.local_ops import Local  # noqa: E402

A = mtf.Dimension("a", 2)
ENGINES = [SharingPlacement(mtf.Shape([]), mtf.LayoutRules([]), [""]) for _ in range(2)]


def einsum(*sizes: int, engine: Any = ENGINES[0]) -> Callable:
    """What Mesh TensorFlow does for an einsum [a, c] of [a, b] and [b, c]."""
    a, b, c = (mtf.Dimension(name, size) for name, size in zip("abc", sizes))
    return mtf.ops._einsum_helper(
        [mtf.Shape([a, b]), mtf.Shape([b, c])], mtf.Shape([a, c]), engine
    )[0]


def scaled(by: Any, kind: type = mtf.ops.ScalarMultiplyOperation) -> Callable:
    """What Mesh TensorFlow does to multiply by a number or a tensor of TensorFlow."""
    found = []

    class Engine:
        def slicewise(self, fn: Callable, x: Any) -> None:
            found.append(fn)

    class Lowering:
        tensors: dict = {}

        def mesh_impl(self, operation: Any) -> Engine:
            return Engine()

        def set_tensor_lowering(self, *args: Any) -> None:
            pass

    x = mtf.import_tf_tensor(mtf.Mesh(mtf.Graph(), "mesh"), tf.zeros([2]), mtf.Shape([A]))
    Lowering.tensors[x] = None
    kind(x, by).lower(Lowering())
    return found[0]


@pytest.fixture(autouse=True)
def graph() -> Any:
    with tf.Graph().as_default() as graph:
        yield graph


def test_functions_of_mesh_tensorflow_are_known_by_what_they_read() -> None:
    assert einsum(2, 3, 4) is not einsum(2, 3, 4)
    assert meaning(einsum(2, 3, 4)) == meaning(einsum(2, 3, 4))
    others = [
        meaning(each)
        for each in (einsum(2, 3, 4), einsum(2, 3, 5), einsum(2, 3, 4, engine=ENGINES[1]))
    ]
    assert None not in others
    assert len(set(others)) == 3


def test_numbers_by_which_they_multiply_and_add() -> None:
    rate = tf.constant(0.5)
    add = mtf.ops.ScalarAddOperation
    different = [
        scaled(0.5),
        scaled(2.0),
        scaled(2),
        scaled(rate),
        scaled(tf.constant(0.5)),
        scaled(0.5, add),
    ]
    meanings = [meaning(each) for each in different]
    assert None not in meanings
    assert len(set(meanings)) == len(meanings)
    assert meaning(scaled(0.5)) == meanings[0]
    assert meaning(scaled(rate)) == meanings[3]


def test_functions_of_tensorflow_and_of_this_package() -> None:
    assert meaning(tf.exp) == meaning(tf.exp) != meaning(tf.square)
    assert meaning(Local(tf.exp)) == meaning(Local(tf.exp)) != meaning(Local(tf.exp, (1,)))


def _own(x: tf.Tensor) -> tf.Tensor:
    return x


def test_nothing_is_known_of_a_user_s_functions() -> None:
    for fn in (_own, lambda x: x, functools.partial(tf.pow, 2.0), A.__eq__):
        assert meaning(fn) is None
    own = [_own]

    def reads_a_user_s(x: tf.Tensor) -> tf.Tensor:
        return own[0](x)

    reads_a_user_s.__module__ = "mesh_tensorflow.ops"
    assert meaning(reads_a_user_s) is None
