"""Replayed choices: a layer's own give the layer itself, and others what a loop says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import hmoe
from hmoe.analysis import replay as analysis
from hmoe.analysis.decisions import LevelDecisions, columns
from hmoe.analysis.traces import Category, LayerInfo, LevelInfo, Manifest, Trace
from hmoe.compat.stack import mtf, tf
from hmoe.layer import replay as replay_lib
from hmoe.layer.decisions import decisions
from hmoe.layer.kept_experts import import_kept
from tests import gradients, graphs, meshes, seeded, tolerances
from tests.reference.layer import feed_forward
from tests.run_layer import Run, run_layer

DIMS = (("outer_batch", 2), ("batch", 4), ("length", 9), ("d_model", 7))
LAYER = "some/layer"
SIZES, CHOICES = (4, 6, 2), (2, 3, 1)
ONE_LEVEL, TWO_LEVELS, THREE_LEVELS = 1, 2, 3


def layer(
    num_levels: int, policy: str = "all", capacity: float = 0.7, loss: float = 0.01
) -> hmoe.HierarchicalMoE:
    """A layer whose buffers are small by default, so that choices are dropped at every level."""
    levels = [
        hmoe.Level(
            name=f"level_{number}",
            num_experts=SIZES[number],
            capacity_factor_train=capacity,
            balance_loss_coef=loss,
            min_capacity=1,
            group_size=12,
            router=hmoe.TopKRouter(
                k=CHOICES[number], policy_train=policy, threshold_train=0.5, weight_norm=1.0
            ),
        )
        for number in range(num_levels)
    ]
    return hmoe.HierarchicalMoE(levels=levels, experts=hmoe.FeedForwardExperts(hidden_size=11))


def info(moe: hmoe.HierarchicalMoE) -> LayerInfo:
    levels = tuple(
        LevelInfo(each.name, each.num_experts, each.router.k, "TopKRouter") for each in moe.levels
    )
    return LayerInfo(LAYER, "inputs", levels)


def traced(moe: hmoe.HierarchicalMoE, importance: np.ndarray | None) -> list[LevelDecisions]:
    """Returns what the layer decides about the seeded tokens, with the seeded weights."""
    with tf.Graph().as_default():
        tf.train.create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = graphs.mtf_dims(DIMS)
        given = {}
        if importance is not None:
            given["importance"] = graphs.constant(mesh, importance, dims[:-1])
        inputs = graphs.constant(mesh, seeded.tokens_of(DIMS), dims)
        found = moe(inputs, mtf.Dimension("d_out", 13), train=True, **given)
        tensors = [decisions(each) for each in found.routed]
        lowering = meshes.lower(mesh, "", "")
        fetched = tf.nest.map_structure(lowering.export_to_tf_tensor, tensors)
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            graphs.load_weights(session, lowering, seeded.weights_of)
            arrays = session.run(fetched)
    return [
        LevelDecisions(level, routed.shape.capacity_dim.size, each)
        for level, routed, each in zip(info(moe).levels, found.routed, arrays)
    ]


def vectors_of(moe: hmoe.HierarchicalMoE, levels: Sequence[LevelDecisions]) -> np.ndarray:
    """Returns the vectors of all tokens, by way of a trace whose only example is the batch."""
    tokens = int(np.prod([size for _, size in DIMS[:-1]]))
    rows = columns(levels, np.ones(tokens, bool))
    number = len(rows["place"])
    numbers = {
        **rows,
        "example": np.zeros(number, np.int32),
        "position": rows.pop("place").astype(np.int32),
        "token": np.ones(number, np.int32),
    }
    nothing = Category(np.zeros(number, np.int32), (LAYER,))
    manifest = Manifest("0.0", "model.ckpt-1", 1, 1, (), (info(moe),), {})
    trace = Trace(manifest, numbers, dict.fromkeys(("task", "layer", "piece"), nothing))
    vectors = analysis.vectors_of(trace, info(moe)).values
    found = np.zeros([tokens, vectors.shape[-1]], np.float32)
    found[: len(vectors)] = vectors
    return found.reshape([*(size for _, size in DIMS[:-1]), -1])


def replaying(moe: hmoe.HierarchicalMoE, vectors: np.ndarray) -> Callable:
    """Returns the layer with replayed choices, as `run_layer` calls layers."""

    def call(inputs: mtf.Tensor, *given: object, **more: Any) -> hmoe.MoEResult:
        dims = [*inputs.shape.dims[:-1], replay_lib.vector_dim(vectors.shape[-1])]
        tensor = graphs.constant(inputs.mesh, vectors, dims)
        return moe(inputs, *given, replay=tensor, **more)

    return call


def run(called: Callable, importance: np.ndarray | None, **how: Any) -> Run:
    return run_layer(called, seeded.tokens_of(DIMS), DIMS, importance=importance, **how)


CASES = {
    "one level": (ONE_LEVEL, "all", None),
    "two levels": (TWO_LEVELS, "all", None),
    "three levels": (THREE_LEVELS, "all", None),
    "random policy": (TWO_LEVELS, "random", None),
    "threshold": (TWO_LEVELS, "threshold", None),
    "partial tokens": (TWO_LEVELS, "all", seeded.importance_of(DIMS)),
    "partial tokens of three levels": (THREE_LEVELS, "random", seeded.importance_of(DIMS)),
}


@pytest.mark.usefixtures("mesh_engine")
@pytest.mark.parametrize("case", CASES)
def test_own_choices_give_the_layer_itself(case: str) -> None:
    num_levels, policy, importance = CASES[case]
    moe = layer(num_levels, policy)
    levels = traced(moe, importance)
    for each in levels:
        wanted, position = each.arrays["wanted"] > 0, each.arrays["position"]
        if each.group_size > 1:
            assert (wanted & (position < 0)).any(), "something is dropped"
        if policy != "all" and wanted.shape[-1] > 1 and each.info.num_choices > 1:
            assert ((each.arrays["demand"] > 0) & ~wanted).any(), "the policy drops something"
    found = run(replaying(moe, vectors_of(moe, levels)), importance)
    expected = run(moe, importance)
    np.testing.assert_array_equal(found.outputs, expected.outputs)
    assert found.losses == expected.losses
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        np.testing.assert_array_equal(found.gradients[name], gradient, err_msg=name)
        assert np.abs(gradient).max() > 1e-4
    for name, total in expected.sums.items():
        np.testing.assert_array_equal(found.sums[name], total, err_msg=name)


def made_up(random: np.random.Generator, levels: Sequence[tuple[int, int]]) -> list[int]:
    """Returns a token's vector: other experts than its own, some unused, some choices missing."""
    if not levels:
        return []
    (experts, choices), *further = levels
    chosen = random.permutation(experts)[:choices] + 1
    signs = np.where(random.random(choices) < 0.2, -1, 1) * (random.random(choices) < 0.85)
    vector = (chosen * signs).tolist()
    for _ in range(choices):
        vector += made_up(random, further)
    return vector


def made_up_vectors() -> np.ndarray:
    random = np.random.default_rng(5)
    shape = [size for _, size in DIMS[:-1]]
    levels = list(zip(SIZES[:2], CHOICES[:2]))
    vectors = [made_up(random, levels) for _ in range(int(np.prod(shape)))]
    return np.array(vectors, np.float32).reshape([*shape, -1])


def by_loop(weights: dict[str, np.ndarray], x: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Returns the output of one token of two levels, with the choices of its vector."""

    def shares(kernel: np.ndarray, entries: np.ndarray) -> list[tuple[int, int, float]]:
        """(rank, expert, weight) of the choices that are used."""
        exponentials = np.exp(x @ kernel)
        probabilities = exponentials / exponentials.sum()
        total = sum(probabilities[abs(int(each)) - 1] for each in entries if each)
        return [
            (rank, int(each) - 1, probabilities[int(each) - 1] / total)
            for rank, each in enumerate(entries)
            if each > 0
        ]

    output = np.zeros(13)
    k, inner = CHOICES[:2]
    for rank, outer_expert, outer_weight in shares(weights["outer_gating/kernel"], vector[:k]):
        entries = vector[k + rank * inner : k + (rank + 1) * inner]
        # A copy that is not of the first rank has half the importance, and one choice.
        entries = entries if rank == 0 else entries[:1]
        for _, expert, weight in shares(weights["inner_gating/kernel"][outer_expert], entries):
            made = feed_forward(x, weights, ["relu"], (expert, outer_expert))
            output += outer_weight * weight * made
    return output


def objective(tensors: dict[str, np.ndarray]) -> float:
    x = tensors["inputs"].reshape(-1, DIMS[-1][1])
    vectors = made_up_vectors().reshape(len(x), -1)
    outputs = np.array([by_loop(tensors, *each) for each in zip(x, vectors)])
    direction = seeded.direction_of([*(size for _, size in DIMS[:-1]), 13])
    return float((outputs * direction.reshape(outputs.shape)).sum())


@pytest.fixture(scope="module")
def replayed_others() -> Run:
    return run(replaying(layer(TWO_LEVELS, capacity=9.0, loss=0.0), made_up_vectors()), None)


def test_other_choices_give_what_a_loop_says(replayed_others: Run) -> None:
    x = seeded.tokens_of(DIMS).reshape(-1, DIMS[-1][1])
    vectors = made_up_vectors().reshape(len(x), -1)
    weights = {name: np.float64(each) for name, each in replayed_others.weights.items()}
    expected = np.array([by_loop(weights, *each) for each in zip(np.float64(x), vectors)])
    found = replayed_others.outputs.reshape(expected.shape)
    assert np.abs(expected).max() > 0.1
    assert (np.abs(expected).sum(-1) == 0).any(), "some tokens have no choice that is used"
    tolerances.assert_close(found, expected, tolerances.ORACLE)


def test_gradients_are_those_of_the_loop(replayed_others: Run) -> None:
    tensors = {**replayed_others.weights, "inputs": seeded.tokens_of(DIMS)}
    for name in ("outer_gating/kernel", "inner_gating/kernel"):
        assert np.abs(replayed_others.gradients[name]).max() > 0.01
    gradients.assert_same_gradients(replayed_others.gradients, objective, tensors)


@pytest.mark.usefixtures("mesh_engine")
@pytest.mark.parametrize("engine", ["index", "einsum"])
def test_is_the_same_on_a_mesh(replayed_others: Run, engine: str) -> None:
    moe = layer(TWO_LEVELS, capacity=9.0, loss=0.0)
    moe = dataclasses.replace(moe, engine=engine)
    layout = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"
    spread = run(replaying(moe, made_up_vectors()), None, mesh_shape="rows:2;cols:2", layout=layout)
    tolerances.assert_close(spread.outputs, replayed_others.outputs, tolerances.MESHES)
    for name, gradient in replayed_others.gradients.items():
        tolerances.assert_close(spread.gradients[name], gradient, tolerances.MESHES, name)


def refused(router: hmoe.Router, size: int = 2 + 2 * 2, **more: Any) -> str:
    levels = [hmoe.Level(name=n, num_experts=4, router=router) for n in ("outer", "inner")]
    moe = hmoe.HierarchicalMoE(levels=levels, experts=hmoe.FeedForwardExperts(hidden_size=11))
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        batch, depth = mtf.Dimension("batch", 2), mtf.Dimension("d_model", 7)
        vectors = mtf.zeros(mesh, mtf.Shape([batch, replay_lib.vector_dim(size)]))
        if more.pop("keep", False):
            more["kept_experts"] = import_kept(mesh, levels, [tf.ones([4]), tf.ones([4, 4])])
        with pytest.raises(ValueError) as caught:
            moe(
                mtf.zeros(mesh, mtf.Shape([batch, depth])),
                depth,
                train=True,
                replay=vectors,
                **more,
            )
    return str(caught.value)


def test_routers_that_cannot_be_replayed() -> None:
    assert refused(hmoe.ExpertChoiceRouter()) == (
        "level 'outer': no choices can be replayed: ExpertChoiceRouter does not let tokens choose"
        " experts one by one; use a router that does, such as hmoe.TopKRouter"
    )
    assert refused(hmoe.TopKRouter(k=2, retries=1)) == (
        "level 'outer': no choices can be replayed: its router has retries = 1, with which a choice"
        " can go to another expert than the recorded one; set retries = 0"
    )


def test_shapes_of_another_layer() -> None:
    assert refused(hmoe.TopKRouter(k=2), size=5) == (
        "HierarchicalMoE: replay has the shape Shape[batch=2, replayed_choices=5], but the tokens"
        " and levels need Shape[batch=2, replayed_choices=6]; make its vectors with"
        " hmoe.analysis.replay"
    )


def test_experts_that_are_left_out() -> None:
    assert refused(hmoe.TopKRouter(k=2), keep=True) == (
        "HierarchicalMoE: replay and kept_experts are both given, but a replayed choice may be of"
        " an expert that is left out; give one of them"
    )


def test_sizes_are_those_of_the_analysis() -> None:
    """Two packages know the layout of vectors, since neither may import the other."""
    moe = layer(THREE_LEVELS)
    assert replay_lib.vector_sizes(moe.levels) == [2 + 2 * (3 + 3 * 1), 3 + 3 * 1, 1, 0]
    assert analysis.vector_sizes(info(moe)) == replay_lib.vector_sizes(moe.levels)
