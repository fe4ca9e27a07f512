"""Simulated meshes: equal slices are one tensor, and every number is upstream's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.lowering.placement import SharingPlacement  # noqa: E402
from hmoe.t5.graphs import training  # noqa: E402

MESH, LAYOUT = "rows:2;cols:4", "a:rows;b:cols;c:cols"
MESHES = [
    "rows:2;cols:4",
    "rows:1;cols:4",
    "rows:4;cols:1",
    "rows:1;cols:1",
    "cols:1",
    "rows:1;cols:2;more:1",
    "rows:2;cols:1;more:2",
    "rows:3;cols:1",
]
UPSTREAM = mtf.placement_mesh_impl.PlacementMeshImpl
A, B, C, D = (mtf.Dimension(name, size) for name, size in zip("abcd", (12, 8, 8, 3)))


def exchanges(x: mtf.Tensor) -> list[mtf.Tensor]:
    """Of x [a, b, d]: all-to-all, all-gather, sums over either axis and both, a maximum, shifts."""
    whole, wide = mtf.Dimension("b_whole", 8), mtf.Dimension("wide", 8)
    pairs = mtf.einsum([x, mtf.range(x.mesh, wide, tf.float32)], mtf.Shape([A, B, wide, D]))
    return [
        mtf.reshape(pairs, mtf.Shape([A, whole, C, D])),
        mtf.reshape(x, mtf.Shape([A, whole, D])) * 2.0,
        mtf.reduce_sum(x, output_shape=mtf.Shape([A])),
        mtf.reduce_sum(x, output_shape=mtf.Shape([B, D])),
        mtf.reduce_sum(x),
        mtf.reduce_max(x, output_shape=mtf.Shape([D])),
        mtf.reduce_min(x, output_shape=mtf.Shape([A])),
        mtf.shift(x, 3, B, wrap=True),
        mtf.shift(x, -1, A, wrap=False),
        mtf.softmax(x, B),
        mtf.gather(x, mtf.range(x.mesh, mtf.Dimension("picked", 5), tf.int32), B),
        mtf.cumsum(x, D) + mtf.range(x.mesh, B, tf.float32),
        mtf.broadcast(mtf.reduce_mean(x, output_shape=mtf.Shape([D])), x.shape),
    ]


def run(kind: Any, devices: list[str], mesh_shape: str = MESH) -> tuple[list[np.ndarray], int]:
    """Values of `exchanges` and of a step of training, and the number of TensorFlow operations."""
    with tf.Graph().as_default() as tf_graph:
        # Or one update races with the other's gradient.
        training.read_weights_once()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        values = np.random.RandomState(0).normal(size=(12, 8, 3)).astype(np.float32)
        x = mtf.import_tf_tensor(mesh, tf.constant(values), mtf.Shape([A, B, D]))
        whole = mtf.get_variable(mesh, "whole", mtf.Shape([D]), initializer=tf.ones_initializer())
        split = mtf.get_variable(
            mesh, "split", mtf.Shape([A, D]), initializer=tf.ones_initializer()
        )
        loss = mtf.reduce_sum(mtf.square(mtf.einsum([x, whole, split], mtf.Shape([A, B]))))
        gradients = mtf.gradients([loss], [whole, split])
        updates = [
            mtf.assign_sub(variable, gradient * 0.01)
            for variable, gradient in zip((whole, split), gradients)
        ]
        found = [mtf.anonymize(each) for each in [*exchanges(x), loss, *gradients]]
        lowering = mtf.Lowering(
            mesh.graph,
            {
                mesh: kind(
                    mtf.convert_to_shape(mesh_shape), mtf.convert_to_layout_rules(LAYOUT), devices
                )
            },
        )
        tensors = [lowering.export_to_tf_tensor(each) for each in found]
        step = [lowering.lowered_operation(each) for each in updates]
        back = lowering.copy_slices_to_masters()
        with tf.Session(config=tf.ConfigProto(device_count={"CPU": 2})) as session:
            session.run(tf.global_variables_initializer())
            session.run(lowering.copy_masters_to_slices())
            results = session.run(tensors)
            session.run(step)
            session.run(back)
            results += session.run(tf.global_variables())
        return results, len(tf_graph.get_operations())


@pytest.mark.parametrize(
    "devices",
    [[""] * 8, ["cpu:0"] * 8, ["cpu:0"] * 4 + ["cpu:1"] * 4, ["cpu:0", "cpu:1"] * 4],
    ids=["anywhere", "one", "two by rows", "two by columns"],
)
def test_equals_upstream_with_fewer_operations(devices: list[str]) -> None:
    theirs, their_number = run(UPSTREAM, devices)
    ours, our_number = run(SharingPlacement, devices)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    assert our_number < their_number * (0.85 if len(set(devices)) > 1 else 0.5)


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize(
    "devices",
    [[""], ["cpu:0", "cpu:1"], ["cpu:0", "cpu:0", "cpu:1"]],
    ids=["one", "two", "repeated"],
)
def test_every_collective_equals_upstream_on_axes_of_one_slice(
    mesh_shape: str, devices: list[str]
) -> None:
    size = mtf.convert_to_shape(mesh_shape).size
    names = (devices * size)[:size]
    theirs, _ = run(UPSTREAM, names, mesh_shape)
    ours, _ = run(SharingPlacement, names, mesh_shape)
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reduce", [mtf.reduce_sum, mtf.reduce_mean, mtf.reduce_max])
def test_a_sum_over_an_axis_of_one_slice_counts_it_once(reduce: Any) -> None:
    with tf.Graph().as_default(), tf.Session() as session:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        ones = mtf.ones(mesh, mtf.Shape([mtf.Dimension("d", 4)]))
        total = reduce(ones)
        lowering = mtf.Lowering(
            mesh.graph,
            {
                mesh: SharingPlacement(
                    mtf.convert_to_shape("a:1"), mtf.convert_to_layout_rules("d:a"), [""]
                )
            },
        )
        found = session.run(lowering.export_to_tf_tensor(total))
    assert found == {mtf.reduce_sum: 4.0}.get(reduce, 1.0)


def test_devices_that_differ_share_nothing_but_cuts() -> None:
    """On real devices everything stays where upstream puts it."""
    devices = [f"cpu:{number}" for number in range(8)]
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        weights = mtf.get_variable(mesh, "weights", mtf.Shape([D]))
        doubled = weights * 2.0
        lowering = mtf.Lowering(
            mesh.graph,
            {
                mesh: SharingPlacement(
                    mtf.convert_to_shape(MESH), mtf.convert_to_layout_rules(LAYOUT), devices
                )
            },
        )
        slices = lowering.tensors[doubled].to_laid_out_tensor().tensor_list
        assert [each.device for each in slices] == [f"/device:CPU:{n}" for n in range(8)]
        assert len({id(each) for each in slices}) == 8


def test_replicas_of_a_variable_are_one() -> None:
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        for name, dims in (("whole", [D]), ("columns", [C]), ("all", [A, C])):
            mtf.get_variable(mesh, name, mtf.Shape(dims))
        lowering = mtf.Lowering(
            mesh.graph,
            {
                mesh: SharingPlacement(
                    mtf.convert_to_shape(MESH), mtf.convert_to_layout_rules(LAYOUT), [""] * 8
                )
            },
            autostack=False,
        )
        numbers = {
            variable.name: len({id(each) for each in laid_out.laid_out_tensor.all_slices})
            for variable, laid_out in lowering.variables.items()
        }
    assert numbers == {"whole": 1, "columns": 4, "all": 8}
