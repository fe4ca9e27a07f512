"""The cross entropy of targets against numpy, and what two losses of one batch share."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs.cross_entropy import TargetCrossEntropy, target_weights
from tests import meshes

BATCH, LENGTH, VOCAB = 2, 3, 5
LOGITS = np.random.RandomState(0).randn(BATCH, LENGTH, VOCAB).astype(np.float32) * 3
# 0 is padding; a negative id is not scored.
TARGETS = np.array([[3, 1, 0], [4, -2, 2]], np.int32)


def mesh() -> mtf.Mesh:
    return mtf.Mesh(mtf.Graph(), "mesh")


def imported(on: mtf.Mesh, array: np.ndarray, *names: str) -> mtf.Tensor:
    shape = mtf.Shape([mtf.Dimension(*pair) for pair in zip(names, array.shape)])
    return mtf.import_fully_replicated(on, tf.constant(array), shape)


def batch(on: mtf.Mesh, logits: np.ndarray = LOGITS) -> tuple[mtf.Tensor, mtf.Tensor]:
    return (
        imported(on, logits, "batch", "length", "vocab"),
        imported(on, TARGETS, "batch", "length"),
    )


def computed(on: mtf.Mesh, *tensors: mtf.Tensor) -> list[np.ndarray]:
    lowering = meshes.lower(on)
    with tf.Session() as session:
        return session.run([lowering.export_to_tf_tensor(tensor) for tensor in tensors])


@pytest.fixture(autouse=True)
def _graph():
    with tf.Graph().as_default():
        yield


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_is_that_of_the_smoothed_targets(smoothing: float) -> None:
    on = mesh()
    logits, targets = batch(on)
    losses = TargetCrossEntropy(logits, targets).losses(target_weights(targets), smoothing)
    found, below_zero = computed(on, *losses)
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    wanted = np.full(LOGITS.shape, smoothing / VOCAB)
    np.put_along_axis(
        wanted, np.maximum(TARGETS, 0)[..., None], 1 - smoothing + smoothing / VOCAB, -1
    )
    expected = -(wanted * log_p).sum(-1) * (TARGETS > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not below_zero.any()


def test_two_losses_share_all_but_their_weights() -> None:
    on = mesh()
    logits, targets = batch(on)
    weights = target_weights(targets)
    cross_entropy = TargetCrossEntropy(logits, targets)
    counts = []
    for smoothing in (0.0, 0.0, 0.1):
        before = len(on.graph.operations)
        cross_entropy.losses(weights, smoothing)
        counts.append(len(on.graph.operations) - before)
    # The second loss adds no reduction over the vocabulary, and the smoothed one adds one, for
    # the mean logit; the log partition function is that of the first.
    assert counts[1] < counts[2] == counts[0]
    reductions = [op for op in on.graph.operations if type(op).__name__ == "ReduceOperation"]
    assert sum(logits.shape.dims[-1] in op.inputs[0].shape.dims for op in reductions) == 4


def test_a_probability_above_1_is_seen() -> None:
    on = mesh()
    logits, targets = batch(on, 100 * np.eye(VOCAB, dtype=np.float32)[np.maximum(TARGETS, 0)])
    cross_entropy = TargetCrossEntropy(logits, targets)
    # As if the sum over the vocabulary had missed the target's own logit.
    cross_entropy._log_z = cross_entropy._log_z * 0.9
    found, below_zero = computed(on, *cross_entropy.losses(target_weights(targets)))
    np.testing.assert_allclose(found, -10.0 * (TARGETS > 0), rtol=1e-4)
    assert (below_zero[TARGETS > 0] > 9).all()
    assert not below_zero[TARGETS <= 0].any()


def test_the_given_part_of_a_joined_sequence_counts_only_if_asked_for() -> None:
    on = mesh()
    # Inputs 5, 1 and targets 7, 1, as T5 joins them, and padding.
    joined = imported(on, np.array([[5, 1, 7, 1, 0]], np.int32), "batch", "length")
    with_given, without = computed(on, target_weights(joined), target_weights(joined, False))
    assert with_given.tolist() == [[1, 1, 1, 1, 0]]
    assert without.tolist() == [[0, 0, 1, 1, 0]]
