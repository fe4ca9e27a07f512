"""Costs of small named-dimension graphs, counted by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.layer import parts
from hmoe.plan import counting
from hmoe.plan.costs import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    FORWARD,
    OTHER,
    SHIFT,
    UPDATE,
    Exchange,
    Memory,
    Place,
)

A, B, C, D = (mtf.Dimension(*each) for each in (("a", 6), ("b", 4), ("c", 5), ("d", 7)))
MESH = mtf.convert_to_shape("rows:2;cols:3;one:1")
ROWS, COLS = ("rows",), ("cols",)
HERE = Place(OTHER, "", FORWARD)


@pytest.fixture
def mesh() -> mtf.Mesh:
    with tf.Graph().as_default():
        yield mtf.Mesh(mtf.Graph(), "mesh")


def zeros(mesh: mtf.Mesh, *dims: mtf.Dimension, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    return mtf.zeros(mesh, mtf.Shape(dims), dtype)


def counted(
    some: mtf.Tensor,
    layout: str,
    gradients: Sequence[mtf.Tensor] = (),
    iterations: int = 1,
    **how: bool,
) -> counting.Counted:
    step = counting.Step(some.graph, [some], gradients, iterations)
    return counting.count(step, MESH, mtf.convert_to_layout_rules(layout), **how)


def exchanges(some: mtf.Tensor, layout: str, **how: bool) -> tuple[Exchange, ...]:
    return counted(some, layout, **how).costs.exchanges


def test_an_einsum_over_a_split_dimension(mesh: mtf.Mesh) -> None:
    product = mtf.einsum([zeros(mesh, A, B), zeros(mesh, B, C)], mtf.Shape([A, C]))
    found = counted(product, "a:cols;b:rows")
    # 2 of a, 2 of b and 5 of c are multiplied on a device.
    assert found.costs.multiplications == {HERE: 2 * 2 * 5}
    # [2, 5] float32: 40 bytes, of which a ring of two sends half twice.
    assert found.costs.exchanges == (Exchange(ALL_REDUCE, ROWS, HERE, 40, 1),)


def test_an_einsum_of_one_tensor_multiplies_nothing(mesh: mtf.Mesh) -> None:
    found = counted(mtf.transpose(zeros(mesh, A, B), mtf.Shape([B, A])), "a:cols")
    assert found.costs.multiplications == {}
    assert found.costs.exchanges == ()


def test_a_sum_that_nobody_reads_is_not_sent(mesh: mtf.Mesh) -> None:
    x = zeros(mesh, A, B)
    mtf.reduce_sum(x, reduced_dim=A)
    assert exchanges(x, "a:cols") == ()


def test_sums_are_added_before_they_are_sent(mesh: mtf.Mesh) -> None:
    first, second = (mtf.reduce_sum(zeros(mesh, A, B), reduced_dim=A) for _ in range(2))
    # [4] float32: 16 bytes; 2 * 2 / 3 of them, rounded down.
    assert exchanges(first + second, "a:cols") == (Exchange(ALL_REDUCE, COLS, HERE, 21, 1),)


def test_a_sum_over_two_axes(mesh: mtf.Mesh) -> None:
    total = mtf.reduce_sum(zeros(mesh, A, B, D), output_shape=mtf.Shape([D]))
    # [7] float32: 28 bytes in a ring of 6.
    expected = Exchange(ALL_REDUCE, ("rows", "cols"), HERE, 2 * 28 * 5 // 6, 1)
    assert exchanges(total, "a:cols;b:rows") == (expected,)


def test_an_axis_of_one_device_sends_nothing(mesh: mtf.Mesh) -> None:
    assert exchanges(mtf.reduce_sum(zeros(mesh, A, B), reduced_dim=A), "a:one") == ()


@pytest.mark.parametrize(("dtype", "size"), [(tf.float32, 4), (tf.bfloat16, 2), (tf.int32, 4)])
def test_an_all_to_all(mesh: mtf.Mesh, dtype: tf.DType, size: int) -> None:
    x = zeros(mesh, A, mtf.Dimension("b", 12), dtype=dtype)
    there = mtf.Shape([mtf.Dimension("a_unsplit", 6), mtf.Dimension("b_split", 12)])
    # A device has 2 of a and 12 of b, and sends two thirds.
    expected = Exchange(ALL_TO_ALL, COLS, HERE, 2 * 12 * size * 2 // 3, 1)
    assert exchanges(mtf.reshape(x, there), "a:cols;b_split:cols") == (expected,)


def test_an_all_gather(mesh: mtf.Mesh) -> None:
    there = mtf.reshape(zeros(mesh, A, B), mtf.Shape([mtf.Dimension("a_unsplit", 6), B]))
    # Each passes on [2, 2] of two devices to the third, 16 bytes each.
    assert exchanges(there, "a:cols;b:rows") == (Exchange(ALL_GATHER, COLS, HERE, 32, 1),)


def test_a_shift(mesh: mtf.Mesh) -> None:
    # By one of two positions of a device: half of [2, 4] float32 goes to the next device.
    shifted = mtf.shift(zeros(mesh, A, B), 1, A, wrap=True)
    assert exchanges(shifted, "a:cols") == (Exchange(SHIFT, COLS, HERE, 16, 1),)


def test_an_operation_whose_functions_return_other_things_than_its_outputs(mesh: mtf.Mesh) -> None:
    # The two largest of each device, [4, 2] of float32 and of int32, are gathered from the other two.
    dim = mtf.Dimension("a", 36)
    largest, _ = mtf.top_k(zeros(mesh, dim, B), dim, mtf.Dimension("k", 7))
    expected = Exchange(ALL_GATHER, COLS, HERE, 2 * (2 * 4 * 7 * 4), 2)
    assert exchanges(largest, "a:cols") == (expected,)


def test_tpus_send_other_types(mesh: mtf.Mesh) -> None:
    x = zeros(mesh, A, mtf.Dimension("b", 12))
    there = mtf.Shape([mtf.Dimension("a_unsplit", 6), mtf.Dimension("b_split", 12)])
    # As bfloat16.
    expected = Exchange(ALL_TO_ALL, COLS, HERE, 2 * 12 * 2 * 2 // 3, 1)
    assert exchanges(mtf.reshape(x, there), "a:cols;b_split:cols", on_tpus=True) == (expected,)


def test_tpus_gather_by_sums(mesh: mtf.Mesh) -> None:
    x = zeros(mesh, A, B, dtype=tf.bfloat16)
    there = mtf.reshape(x, mtf.Shape([mtf.Dimension("a_unsplit", 6), B]))
    # [3, 2, 2] bfloat16, each device's part among zeros: 24 bytes in a ring of three.
    expected = Exchange(ALL_REDUCE, COLS, HERE, 2 * 24 * 2 // 3, 1)
    assert exchanges(there, "a:cols;b:rows", on_tpus=True) == (expected,)


def test_a_maximum_on_tpus(mesh: mtf.Mesh) -> None:
    x = zeros(mesh, A, B, dtype=tf.bfloat16)
    largest = mtf.reduce_max(x, reduced_dim=A)
    # [3, 4] bfloat16 of all, as a sum.
    expected = Exchange(ALL_REDUCE, COLS, HERE, 2 * 24 * 2 // 3, 1)
    assert exchanges(largest, "a:cols", on_tpus=True) == (expected,)


@pytest.mark.parametrize("on_tpus", [False, True])
def test_random_numbers(mesh: mtf.Mesh, on_tpus: bool) -> None:
    """The cores of a TPU agree on them by a sum of those of one core and zeros."""
    numbers = mtf.random_normal(mesh, mtf.Shape([A, D]))
    # [3, 7] float32, 84 bytes, on each of the three devices along the other axis.
    expected = (Exchange(ALL_REDUCE, COLS, HERE, 2 * 84 * 2 // 3, 1),) if on_tpus else ()
    assert exchanges(numbers, "a:rows", on_tpus=on_tpus) == expected


def loss_of(mesh: mtf.Mesh) -> Callable[[dict[str, mtf.Tensor]], dict[str, mtf.Tensor]]:
    """A product with a weight [c, d], then its sum of squares; marks the product."""

    def loss(features: dict[str, mtf.Tensor]) -> dict[str, mtf.Tensor]:
        weight = mtf.get_variable(mesh, "weight", mtf.Shape([C, D]))
        with parts.within(mesh.graph, parts.ROUTER, "outer"):
            product = mtf.einsum([features["x"], weight], reduced_dims=[C])
        return {"loss": mtf.reduce_sum(mtf.square(product))}

    return loss


@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_training_step(mesh: mtf.Mesh, microbatches: int) -> None:
    x, batch = zeros(mesh, A, C), A.size // 2
    if microbatches == 1:
        loss = loss_of(mesh)({"x": x})["loss"]
        gradients = mtf.gradients([loss], [mesh.graph.trainable_variables[0].outputs[0]])
    else:
        gradients, outputs = mtf.serialize_training_step({"x": x}, loss_of(mesh), A, microbatches)
        loss = outputs["loss"]
    weight = mesh.graph.trainable_variables[0]
    slot = mtf.get_variable(mesh, "slot", mtf.Shape([C]), trainable=False)
    mtf.assign(weight, weight.value - gradients[0])
    mtf.assign(slot, slot * 0.5)
    found = counted(loss, "a:rows", gradients=gradients, iterations=microbatches)

    at, back = Place(parts.ROUTER, "outer", FORWARD), Place(parts.ROUTER, "outer", BACKWARD)
    multiplied = found.costs.multiplications
    assert multiplied[at] == batch * 5 * 7
    # Once for the weight; the inputs need no gradient, for which Mesh TensorFlow adds one.
    assert multiplied[back] == batch * 5 * 7
    lowered = counted(loss, "a:rows", iterations=microbatches, unused=True)
    assert lowered.costs.multiplications[back] == 2 * batch * 5 * 7
    assert set(multiplied) <= {at, back, HERE, Place(OTHER, "", BACKWARD), Place(OTHER, "", UPDATE)}
    # The gradient [5, 7] and the loss, each summed over the batch once a step.
    sent = {each.place: each for each in found.costs.exchanges}
    assert sent[back] == Exchange(ALL_REDUCE, ROWS, back, 2 * 140 // 2, 1)
    assert sum(each.count for each in found.costs.exchanges) == 2
    assert sum(each.size for each in found.costs.exchanges) == 140 + 4
    # The backward pass reads the inputs [3, 5] and the product [3, 7], of one microbatch, and the 1
    # that it begins with.
    activations = 4 * (batch // microbatches) * (5 + 7) + 4
    assert found.memory == Memory(140, 140, 20, activations)


def test_a_layout_that_does_not_divide(mesh: mtf.Mesh) -> None:
    with pytest.raises(ValueError) as error:
        counted(zeros(mesh, C, D), "c:cols")
    assert str(error.value) == (
        "dimension 'c' has size 5, which the 3 devices of mesh axis 'cols' cannot share; use a multiple of 3, or another layout (utils.run.layout_rules)"
    )
