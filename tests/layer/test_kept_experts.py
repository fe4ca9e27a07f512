"""A layer with experts left out is the layer that has only the others."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.layer.kept_experts import import_kept, kept_shapes
from tests import seeded, tolerances
from tests.run_layer import Run, run_layer

DIMS = (("outer_batch", 2), ("batch", 2), ("length", 5), ("d_model", 7))
OUTER, INNER = 4, 6
# The outer experts that stay, and the inner ones in each of them.
STAY = {0: [1, 3, 4], 2: [0, 2, 5]}

ROUTERS = {
    "top-2": lambda: hmoe.TopKRouter(k=2, weight_norm=1.0),
    "top-2-sigmoid": lambda: hmoe.TopKRouter(
        k=2, weight_norm=2.0, gate=hmoe.Gate(function="sigmoid", use_bias=True)
    ),
    "switch": lambda: hmoe.SwitchRouter(),
    "balance-bias": lambda: hmoe.TopKRouter(k=2, bias_update_rate=0.0),
}


def layer(router, outer: int, inner: int) -> hmoe.HierarchicalMoE:
    sizes = {"outer": outer, "inner": inner}
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(name=name, num_experts=size, router=router()) for name, size in sizes.items()
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11, use_bias=True),
    )


def kept() -> list[np.ndarray]:
    outer, inner = np.zeros(OUTER, np.float32), np.zeros((OUTER, INNER), np.float32)
    for number, experts in STAY.items():
        outer[number] = 1
        inner[number, experts] = 1
    return [outer, inner]


def run_without_others(router, **how: object) -> Run:
    full = layer(router, OUTER, INNER)

    def call(inputs: mtf.Tensor, *given: object, **more: object) -> hmoe.MoEResult:
        tensors = [tf.constant(each) for each in kept()]
        kept_experts = import_kept(inputs.mesh, full.levels, tensors)
        return full(inputs, *given, kept_experts=kept_experts, **more)

    x = seeded.tokens_of(DIMS)
    return run_layer(call, x, DIMS, train=False, drop_tokens=False, gradients=False, **how)


def weights_of_others(weights: np.ndarray) -> np.ndarray:
    """Cuts the experts that stay out of an array; all other dimensions have other sizes."""
    outer = weights.shape.index(OUTER) if OUTER in weights.shape else None
    inner = weights.shape.index(INNER) if INNER in weights.shape else None
    if inner is None:
        return weights if outer is None else weights.take(list(STAY), outer)
    parts = [weights.take(n, outer).take(each, inner - (inner > outer)) for n, each in STAY.items()]
    return np.stack(parts, outer)


@pytest.mark.usefixtures("mesh_engine")
@pytest.mark.parametrize("name", ROUTERS)
def test_is_the_layer_of_the_others(name: str) -> None:
    router = ROUTERS[name]
    found = run_without_others(router)
    small = run_layer(
        layer(router, len(STAY), 3),
        seeded.tokens_of(DIMS),
        DIMS,
        train=False,
        drop_tokens=False,
        gradients=False,
        values=lambda variable, _: weights_of_others(found.weights[variable]),
    )
    assert np.abs(found.outputs).max() > 0.1
    tolerances.assert_close(found.outputs, small.outputs, tolerances.SAME)


@pytest.mark.usefixtures("mesh_engine")
def test_is_the_same_on_a_mesh() -> None:
    router = ROUTERS["top-2"]
    alone = run_without_others(router)
    layout = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"
    spread = run_without_others(router, mesh_shape="rows:2;cols:2", layout=layout)
    tolerances.assert_close(spread.outputs, alone.outputs, tolerances.MESHES)


def test_keeping_all_changes_nothing() -> None:
    full = layer(ROUTERS["top-2"], OUTER, INNER)

    def call(inputs: mtf.Tensor, *given: object, **more: object) -> hmoe.MoEResult:
        tensors = [tf.ones(shape.to_integer_list) for shape in kept_shapes(full.levels)]
        kept_experts = import_kept(inputs.mesh, full.levels, tensors)
        return full(inputs, *given, kept_experts=kept_experts, **more)

    x = seeded.tokens_of(DIMS)
    how = {"train": False, "gradients": False}
    np.testing.assert_array_equal(
        run_layer(call, x, DIMS, **how).outputs, run_layer(full, x, DIMS, **how).outputs
    )


def refused(router: hmoe.Router, size: int = 4) -> str:
    moe = layer(lambda: router, 4, 6)
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = [mtf.Dimension("batch", 2), mtf.Dimension("d_model", 7)]
        kept_experts = import_kept(
            mesh, layer(lambda: router, size, 6).levels, [tf.ones([size]), tf.ones([size, 6])]
        )
        inputs = mtf.zeros(mesh, mtf.Shape(dims))
        with pytest.raises(ValueError) as caught:
            moe(inputs, dims[1], train=False, kept_experts=kept_experts)
    return str(caught.value)


@pytest.mark.parametrize(
    "router", [hmoe.UniformRouter(), hmoe.ExpertChoiceRouter(softmax_over="tokens")]
)
def test_routers_that_do_not_go_by_scores(router: hmoe.Router) -> None:
    assert refused(router) == (
        f"level 'outer': {type(router).__name__} does not choose by the scores of experts, so that"
        " none can be left out; use hmoe.TopKRouter or hmoe.SwitchRouter"
    )


def test_shapes_of_another_layer() -> None:
    assert refused(hmoe.TopKRouter(), size=3) == (
        "HierarchicalMoE: kept_experts has the shapes [Shape[expert_x_unsplit=3],"
        " Shape[expert_x=3, expert_y_unsplit=6]], but the levels need"
        " [Shape[expert_x_unsplit=4], Shape[expert_x=4, expert_y_unsplit=6]]; make them with"
        " hmoe.layer.kept_experts.import_kept"
    )
