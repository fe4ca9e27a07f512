"""Operations repeated for further slices compute what the function would have."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.lowering.op_replay import Replayed, Replays  # noqa: E402
from hmoe.lowering.placement import SharingPlacement  # noqa: E402
from tests.lowering.test_function_keys import in_package  # noqa: E402

SHAPE = [3, 5]


def numbers(seed: int, shape: list[int] = SHAPE) -> np.ndarray:
    return np.random.RandomState(seed).normal(size=shape).astype(np.float32)


class Counted:
    """A function that knows how often it was called."""

    def __init__(self, fn: Callable):
        self.fn, self.calls = fn, 0

    def __call__(self, *slices: Any) -> Any:
        self.calls += 1
        return self.fn(*slices)


def several(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Shared constants, axes, one tensor used twice, a tuple, an input handed back."""
    total = tf.reduce_sum(x * y, axis=-1, keepdims=True)
    parts = tf.split(x / (1.0 + tf.abs(total)), [2, 3], axis=-1)
    return tf.concat(parts[::-1], axis=-1), tf.einsum("ab,cb->ac", x, y) + total, y


@pytest.fixture(autouse=True)
def graph() -> Any:
    with tf.Graph().as_default() as graph:
        yield graph


def test_replays_compute_what_the_function_does() -> None:
    fn = Counted(several)
    replayed = Replayed(fn)
    pairs = [
        [tf.identity(numbers(2 * each)), tf.identity(numbers(2 * each + 1))] for each in range(4)
    ]
    results = [replayed(pair) for pair in pairs]
    assert fn.calls == 1
    assert results[3][2] is pairs[3][1]
    with tf.Session() as session:
        for pair, result in zip(pairs, results):
            found, expected = session.run([result, several(*pair)])
            for one, other in zip(found, expected):
                np.testing.assert_array_equal(one, other)


def test_a_replay_has_the_device_and_the_scope_of_its_place(graph: tf.Graph) -> None:
    replayed = Replayed(lambda x: tf.square(x, name="scope/squared"))
    with tf.device("cpu:0"):
        replayed([tf.identity(numbers(0))])
        with tf.name_scope("place"):
            made = replayed([tf.identity(numbers(1))])
    assert (made.op.name, made.device) == ("place/squared", "/device:CPU:0")
    assert made.op.type == "Square"


def test_slices_of_another_kind_are_built_anew() -> None:
    fn = Counted(lambda x, y, *rest: tf.reshape(x, [-1]) + tf.reshape(y, [-1]))
    replayed = Replayed(fn)
    x, y = tf.identity(numbers(0)), tf.identity(numbers(1))
    turned = tf.transpose(y)
    constants = [tf.constant(numbers(seed)) for seed in (0, 1)]
    kinds: list[list[Any]] = [
        [x, y],
        [x, x],
        [turned, y],
        [x, y, 1],
        [x, y, 1.0],
        [x, y, True],
        [x, y, 2],
        [constants[0], y],
        [constants[1], y],
        [tf.cast(x, tf.float64), tf.cast(y, tf.float64)],
    ]
    for calls, kind in enumerate(kinds, 1):
        replayed(kind)
        assert fn.calls == calls
    with tf.device("cpu:0"):
        replayed([x, y])
        assert fn.calls == len(kinds) + 1
    for kind in ([y, x], [y, y], [tf.transpose(x), x], [y, x, 1], [constants[0], x]):
        replayed(kind)
    assert fn.calls == len(kinds) + 1
    # What cannot be compared: it may have changed.
    for _ in range(2):
        replayed([x, y, [3]])
    assert fn.calls == len(kinds) + 3


def test_unknown_sizes_stay_unknown_and_python_s_knowledge_is_kept() -> None:
    def shaped(x: tf.Tensor) -> tf.Tensor:
        found = tf.reshape(x, tf.unstack(tf.shape(x))[::-1])
        found.set_shape([5, 3])
        return found

    replayed = Replayed(shaped)
    inputs = [tf.placeholder_with_default(numbers(seed), [None, None]) for seed in (0, 1)]
    results = [replayed([each]) for each in inputs]
    assert [each.shape.as_list() for each in results] == [[5, 3], [5, 3]]
    with tf.Session() as session:
        np.testing.assert_array_equal(session.run(results[1]), numbers(1).reshape([5, 3]))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + tf.random.uniform(SHAPE, seed=1),
        lambda x: tf.while_loop(
            lambda y: tf.reduce_sum(y) < 9.0, lambda y: y + 1.0, [x], back_prop=False
        ),
        lambda x: [x, x + 1.0],
    ],
    ids=["random numbers", "a loop", "a list"],
)
def test_what_cannot_be_replayed_is_built_anew(fn: Callable) -> None:
    counted = Counted(fn)
    replayed = Replayed(counted)
    for seed in range(3):
        replayed([tf.identity(numbers(seed))])
    assert counted.calls == 3


def test_operations_under_other_control_are_built_anew() -> None:
    def waits(x: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.no_op()]):
            return tf.identity(x)

    counted = Counted(waits)
    replayed = Replayed(counted)
    for seed in range(2):
        assert len(replayed([tf.identity(numbers(seed))]).op.control_inputs) == 1
    assert counted.calls == 2


def test_replays_within_a_loop_belong_to_it() -> None:
    """As microbatches do: constants and tensors from outside, several slices, several rounds."""
    outside = tf.identity(numbers(0))
    fn = Counted(lambda x, y: tf.reduce_max(x * y + outside, axis=0) * 0.5 + x)
    replayed = Replayed(fn)

    def body(x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        return [replayed([x, y]), replayed([y, x])]

    before = replayed([outside, tf.identity(numbers(3))])
    x, y = tf.identity(numbers(1)), tf.identity(numbers(2))
    found = tf.while_loop(lambda *_: True, body, [x, y], maximum_iterations=3, back_prop=False)
    assert fn.calls == 2
    for _ in range(3):
        x, y = fn.fn(x, y), fn.fn(y, x)
    with tf.Session() as session:
        found, expected, _ = session.run([found, [x, y], before])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_variables_are_read() -> None:
    replayed = Replayed(lambda x: x * 2.0)
    variables = [tf.get_variable(f"v{seed}", initializer=numbers(seed)) for seed in (0, 1)]
    doubled = [replayed([each]) for each in variables]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for seed, found in enumerate(session.run(doubled)):
            np.testing.assert_array_equal(found, 2.0 * numbers(seed))


def scaled(factor: float) -> Callable:
    """A new function of the package."""
    return in_package(lambda x: x * factor)


def _own(x: tf.Tensor) -> tf.Tensor:
    return x * random.random()


def test_equal_functions_are_known_in_other_places() -> None:
    replays = Replays()
    known = replays.of(scaled(2.0))
    assert replays.of(scaled(2.0)) is known
    assert replays.of(scaled(3.0)) is not known
    assert replays.of(tf.square) is replays.of(tf.square)
    # A user's own function may read what changes.
    assert replays.of(_own) is not replays.of(_own)


def test_a_graph_takes_nothing_from_another() -> None:
    replayed = Replayed(scaled(2.0))
    replayed([tf.identity(numbers(0))])
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(replayed([tf.identity(numbers(1))]))
    np.testing.assert_array_equal(found, 2.0 * numbers(1))


def test_devices_of_a_mesh_get_their_own_coordinates() -> None:
    engine = SharingPlacement(mtf.convert_to_shape("rows:2;cols:3"), mtf.LayoutRules([]), [""] * 6)
    upstream = mtf.placement_mesh_impl.PlacementMeshImpl(
        mtf.convert_to_shape("rows:2;cols:3"), mtf.LayoutRules([]), [""] * 6
    )
    with tf.Session() as session:
        for axis in (0, 1):
            theirs = session.run(upstream.laid_out_pcoord(axis).tensor_list)
            assert engine.laid_out_pcoord(axis).tensor_list == theirs
