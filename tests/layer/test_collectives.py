"""Counts everything that a layer sends over the mesh."""

from __future__ import annotations

import collections

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from tests import collectives, graphs, meshes, seeded

pytestmark = pytest.mark.usefixtures("mesh_engine")

DIMS = (("outer_batch", 8), ("batch", 16), ("length", 3), ("d_model", 5))
TWICE_AS_LONG = (("outer_batch", 8), ("batch", 16), ("length", 6), ("d_model", 5))
MESH = "rows:2;cols:4"
PREDICT_DIMS = (("batch", 32), ("length", 3), ("d_model", 5))


def layer(metrics):
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="outer",
                num_experts=24,
                router=hmoe.TopKRouter(k=2),
                group_size=6,
                min_capacity=1,
            ),
            hmoe.Level(
                name="inner",
                num_experts=32,
                router=hmoe.TopKRouter(k=2),
                group_size=8,
                min_capacity=1,
            ),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=10),
        **metrics,
    )


def build(dims, *, train=True, gradients=False, **metrics):
    """Builds one layer, with metrics unless they are "off"; returns graph, mesh and outputs."""
    graph = mtf.Graph()
    mesh = mtf.Mesh(graph, "mesh")
    all_dims = graphs.mtf_dims(dims)
    x = graphs.constant(mesh, seeded.tokens_of(dims), all_dims)
    importance = graphs.constant(mesh, seeded.importance_of(dims), all_dims[:-1])
    result = layer(metrics)(
        x,
        mtf.Dimension("d_out", 7),
        train=train,
        importance=importance,
        mesh_shape=MESH,
        layout=meshes.TWO_AXES,
    )
    outputs = [result.outputs, result.loss, *result.metrics.values()]
    if gradients:
        loss = mtf.reduce_sum(result.outputs) + result.loss
        outputs += mtf.gradients([loss], [v.outputs[0] for v in graph.trainable_variables] + [x])
    return graph, mesh, outputs


@meshes.cached
def run(dims, **how):
    """Returns the collectives of a layer on 2 x 4 devices, in the order of the graph."""
    with tf.Graph().as_default(), collectives.recorded(meshes.kind()) as found:
        _, mesh, outputs = build(dims, **how)
        lowering = meshes.lower(mesh, MESH, meshes.TWO_AXES)
        for tensor in outputs:
            # A sum over devices waits until somebody reads it.
            lowering.tensors[tensor].to_laid_out_tensor()
    return found


def along(kind, dims, **how):
    """Returns the mesh axis and the elements of every collective of a kind along one axis."""
    return [(*each.axes, each.size) for each in run(dims, **how) if each.kind == kind]


# Elements on all devices. The outer buffers have 24 experts, 8 outer batches, 8 groups and 1 slot,
# the inner ones 32 x 24 experts, 8 outer batches and 1 slot.
OUTER_SLOTS = 24 * 8 * 8
INNER_SLOTS = 32 * 24 * 8
# Forward pass and backward pass, from the inner axis to the outer one.
TOKENS = [
    ("cols", OUTER_SLOTS * 5),
    ("cols", OUTER_SLOTS * 7),
    ("rows", INNER_SLOTS * 5),
    ("rows", INNER_SLOTS * 7),
]
IMPORTANCE = ("cols", OUTER_SLOTS)
# Two numbers a slot come back: how many inner slots its token fills, and their weight.
REACHED = ("cols", OUTER_SLOTS * 2)
EXTRA = {"off": [], "brief": [REACHED], "full": [REACHED]}


def test_forward_pass_sends_tokens_once_along_each_axis_and_back():
    assert along(collectives.ALL_TO_ALL, DIMS, metrics="off") == [
        ("cols", OUTER_SLOTS * 5),  # tokens out
        ("cols", OUTER_SLOTS),  # their importance
        ("rows", INNER_SLOTS * 5),  # tokens further out
        ("rows", INNER_SLOTS * 7),  # and back
        ("cols", OUTER_SLOTS * 7),
    ]


@pytest.mark.parametrize("metrics", ["off", "brief", "full"])
def test_training_step_gathers_nothing_and_doubles_the_exchanges_of_tokens(metrics):
    found = run(DIMS, metrics=metrics, gradients=True)
    assert {each.kind for each in found} == {collectives.ALL_TO_ALL, collectives.ALL_REDUCE}
    exchanges = along(collectives.ALL_TO_ALL, DIMS, metrics=metrics, gradients=True)
    assert sorted(exchanges) == sorted([*2 * TOKENS, IMPORTANCE, *EXTRA[metrics]])


def test_brief_metrics_are_the_default():
    assert layer({}).metrics == "brief"


@pytest.mark.parametrize(
    ("metrics", "dims"),
    [
        pytest.param("brief", DIMS, id="brief"),
        pytest.param("full", DIMS, id="full"),
        pytest.param("full", TWICE_AS_LONG, id="full-twice_as_long"),
    ],
)
def test_metrics_add_sums_whose_size_does_not_depend_on_the_tokens(metrics, dims):
    """Beside what tokens reached, devices add up a few numbers for each expert."""

    def sums(metrics):
        found = run(dims, metrics=metrics, gradients=True)
        return collections.Counter(e[:3] for e in found if e.kind == collectives.ALL_REDUCE)

    added, without = sums(metrics), sums("off")
    assert not without - added
    fields = {"brief": 6, "full": 7 + 2 * 2}[metrics]
    both, rows = ("cols", "rows"), ("rows",)
    # A device holds 6 of the 24 outer experts. Nine numbers describe the layer from end to end.
    assert sorted((added - without).elements()) == sorted(
        [
            (collectives.ALL_REDUCE, both, (24,)),
            (collectives.ALL_REDUCE, both, (fields,)),
            (collectives.ALL_REDUCE, both, (9,)),
            (collectives.ALL_REDUCE, rows, (6, 32)),
            (collectives.ALL_REDUCE, rows, (6, fields)),
        ]
    )


def test_prediction_on_two_axes_gathers_once_at_the_exit():
    gathered = along(collectives.ALL_GATHER, PREDICT_DIMS, train=False)
    assert [axis for axis, _ in gathered] == ["rows"]
    exchanges = along(collectives.ALL_TO_ALL, PREDICT_DIMS, train=False)
    assert [axis for axis, _ in exchanges] == ["cols", "cols", "rows", "rows", "cols", "cols"]


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "backward"])
def test_lowers_for_a_tpu_slice_with_no_tpu(gradients):
    topology_lib = pytest.importorskip("tensorflow.python.tpu.topology")
    assignment_lib = pytest.importorskip("tensorflow.python.tpu.device_assignment")
    # One host of 2 x 2 chips of 2 cores.
    coordinates = np.array(
        [[[x, y, 0, core] for y in range(2) for x in range(2) for core in range(2)]], np.int32
    )
    topology = topology_lib.Topology(mesh_shape=[2, 2, 1, 2], device_coordinates=coordinates)
    assignment = assignment_lib.device_assignment(
        topology, computation_shape=[1, 1, 1, 1], num_replicas=8
    )
    with tf.Graph().as_default() as tf_graph:
        graph, mesh, outputs = build(DIMS, gradients=gradients)
        engine = mtf.simd_mesh_impl.SimdMeshImpl(
            mtf.convert_to_shape(MESH),
            mtf.convert_to_layout_rules(meshes.TWO_AXES),
            None,
            assignment,
        )
        lowering = mtf.Lowering(graph, {mesh: engine})
        for tensor in outputs:
            lowering.tensors[tensor].to_laid_out_tensor()
        exchanges = [op for op in tf_graph.get_operations() if op.type == "AllToAll"]
        assert len(exchanges) == (10 if gradients else 6)
        assert {op.get_attr("split_count") for op in exchanges} == {2, 4}
        assert [op for op in tf_graph.get_operations() if "AllGather" in op.type] == []


def test_every_intermediate_has_the_dimensions_of_the_table():
    """Follows a token by the dimensions of each tensor on its path."""
    with tf.Graph().as_default():
        graph, _, _ = build(DIMS)
    shapes = [
        [(d.name, d.size) for d in tensor.shape.dims]
        for op in graph.operations
        for tensor in op.outputs
    ]
    table = {
        "groups": [("outer_batch", 8), ("batch", 8), ("group_size_x", 6), ("d_model", 5)],
        "importance": [("outer_batch", 8), ("batch", 8), ("group_size_x", 6)],
        "scores": [("outer_batch", 8), ("batch", 8), ("group_size_x", 6), ("expert_x_unsplit", 24)],
        "dispatched": [
            ("expert_x_unsplit", 24),
            ("outer_batch", 8),
            ("batch", 8),
            ("expert_capacity_x", 1),
            ("d_model", 5),
        ],
        "exchanged": [
            ("expert_x", 24),
            ("outer_batch", 8),
            ("batch_unsplit", 8),
            ("expert_capacity_x", 1),
            ("d_model", 5),
        ],
        "inner groups": [("expert_x", 24), ("outer_batch", 8), ("group_size_y", 8), ("d_model", 5)],
        "inner importance": [("expert_x", 24), ("outer_batch", 8), ("group_size_y", 8)],
        "inner scores": [
            ("expert_x", 24),
            ("outer_batch", 8),
            ("group_size_y", 8),
            ("expert_y_unsplit", 32),
        ],
        "inner dispatched": [
            ("expert_y_unsplit", 32),
            ("expert_x", 24),
            ("outer_batch", 8),
            ("expert_capacity_y", 1),
            ("d_model", 5),
        ],
        "inner exchanged": [
            ("expert_y", 32),
            ("expert_x", 24),
            ("outer_batch_unsplit", 8),
            ("expert_capacity_y", 1),
            ("d_model", 5),
        ],
        "wi": [("expert_y", 32), ("expert_x", 24), ("d_model", 5), ("expert_hidden", 10)],
        "hidden": [
            ("expert_y", 32),
            ("expert_x", 24),
            ("outer_batch_unsplit", 8),
            ("expert_capacity_y", 1),
            ("expert_hidden", 10),
        ],
        "wo": [("expert_y", 32), ("expert_x", 24), ("expert_hidden", 10), ("d_out", 7)],
        "inner back": [
            ("expert_y_unsplit", 32),
            ("expert_x", 24),
            ("outer_batch", 8),
            ("expert_capacity_y", 1),
            ("d_out", 7),
        ],
        "inner combined": [("expert_x", 24), ("outer_batch", 8), ("group_size_y", 8), ("d_out", 7)],
        "back": [
            ("expert_x_unsplit", 24),
            ("outer_batch", 8),
            ("batch", 8),
            ("expert_capacity_x", 1),
            ("d_out", 7),
        ],
        "combined": [("outer_batch", 8), ("batch", 8), ("group_size_x", 6), ("d_out", 7)],
        "outputs": [("outer_batch", 8), ("batch", 16), ("length", 3), ("d_out", 7)],
    }
    missing = [step for step, shape in table.items() if shape not in shapes]
    assert missing == []
    kernels = {v.name: [(d.name, d.size) for d in v.shape.dims] for v in graph.trainable_variables}
    assert kernels == {
        "outer_gating/kernel": [("d_model", 5), ("expert_x_unsplit", 24)],
        "inner_gating/kernel": [("expert_x", 24), ("d_model", 5), ("expert_y_unsplit", 32)],
        "wi/kernel": table["wi"],
        "wo/kernel": table["wo"],
    }
