"""What is sent over the mesh, counted from the lowering."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from tests import graphs, meshes, seeded

pytestmark = pytest.mark.usefixtures("mesh_engine")

DIMS = (("outer_batch", 8), ("batch", 16), ("length", 3), ("d_model", 5))
MESH = "rows:2;cols:4"
PREDICT_DIMS = (("batch", 32), ("length", 3), ("d_model", 5))


def layer(metrics="brief"):
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
        metrics=metrics,
    )


def build(dims, *, metrics="off", train=True, gradients=False):
    """The mtf graph and mesh of one layer; d_out 7."""
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
def counters(**how):
    """What the lowering on 2 x 4 devices counts, in the order of the graph."""
    with tf.Graph().as_default():
        _, mesh, _ = build(**how)
        return list(meshes.lower(mesh, MESH, meshes.TWO_AXES).counters)


def count(kind, **how):
    """(axis, amount) of every collective of a kind, in the order of the graph."""
    return [
        (name.split("/")[1], amount)
        for name, amount in counters(**how)
        if name.split("/")[0] == kind
    ]


# Elements on all devices: outer buffers of 24 experts, 8 outer batches, 8 groups, 1 slot;
# inner ones of 32 x 24 experts, 192 places in 24 groups... of each kind of passenger.
OUTER_SLOTS = 24 * 8 * 8
INNER_SLOTS = 32 * 24 * 8


def test_forward_pass_sends_tokens_once_along_each_axis_and_back():
    assert count("alltoall", dims=DIMS) == [
        ("1", OUTER_SLOTS * 5),  # tokens out, over the columns
        ("1", OUTER_SLOTS),  # their importance
        ("0", INNER_SLOTS * 5),  # tokens out, over the rows
        ("0", INNER_SLOTS * 7),  # and back
        ("1", OUTER_SLOTS * 7),
    ]


def test_metrics_of_the_whole_way_send_two_numbers_a_slot_back():
    with_metrics = sorted(count("alltoall", dims=DIMS, metrics="brief"))
    without = sorted(count("alltoall", dims=DIMS))
    for each in without:
        with_metrics.remove(each)
    assert with_metrics == [("1", OUTER_SLOTS * 2)]


def test_training_step_gathers_nothing_and_doubles_the_exchanges_of_tokens():
    assert count("allconcat", dims=DIMS, gradients=True) == []
    both = sorted(count("alltoall", dims=DIMS, gradients=True))
    tokens = [
        ("0", INNER_SLOTS * 5),
        ("0", INNER_SLOTS * 7),
        ("1", OUTER_SLOTS * 5),
        ("1", OUTER_SLOTS * 7),
    ]
    assert both == sorted(2 * tokens + [("1", OUTER_SLOTS)])


def test_prediction_on_two_axes_gathers_once_at_the_exit():
    gathered = count("allconcat", dims=PREDICT_DIMS, train=False)
    assert [axis for axis, _ in gathered] == ["0"]
    exchanges = count("alltoall", dims=PREDICT_DIMS, train=False)
    assert [axis for axis, _ in exchanges] == ["1", "1", "0", "0", "1"]


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
        assert len(exchanges) == (9 if gradients else 5)
        assert {op.get_attr("split_count") for op in exchanges} == {2, 4}
        assert [op for op in tf_graph.get_operations() if "AllGather" in op.type] == []


def test_every_intermediate_has_the_dimensions_of_the_table():
    """The path of the data, by name: each tensor's dimensions where it is made."""
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
