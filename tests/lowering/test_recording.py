"""What a lowering sends, against counts by hand and against what is in TensorFlow's graph."""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np
import pytest
from tensorflow.python.tpu import tpu

from hmoe.compat.stack import mtf, tf
from hmoe.lowering import recording
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.exchanges import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL
from hmoe.lowering.placement import SharingPlacement
from hmoe.lowering.recording import SHIFT, Record
from tests import graphs, meshes, tpu_slices
from tests.lowering.two_level_step import two_level_step

MESH, LAYOUT = "rows:2;cols:4;one:1", "a:rows;b:cols;c:cols;e:one"
A, B, C, D, E = (mtf.Dimension(name, size) for name, size in zip("abcde", (12, 8, 16, 3, 5)))
WHOLE, WIDE = mtf.Dimension("b_whole", 8), mtf.Dimension("wide", 16)
CPU, TPU = "cpu", "tpu"
ROWS, COLS, BOTH = ("rows",), ("cols",), ("rows", "cols")


def engine(kind: str) -> Any:
    shape, layout = mtf.convert_to_shape(MESH), mtf.convert_to_layout_rules(LAYOUT)
    if kind == CPU:
        return recording.recorded(SharingPlacement)(shape, layout, [""] * 8)
    return recording.recorded(mtf.simd_mesh_impl.SimdMeshImpl)(
        shape,
        layout,
        None,
        tpu_slices.assignment(8),
        allreduce_in_bfloat16_max_group_size=4,
    )


def lowered(kind: str, build: Any, dtype: tf.DType = tf.float32) -> tuple[list[Record], tf.Graph]:
    """Records of what a function builds of x [a, b, d]."""
    with tf.Graph().as_default() as graph:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        x = mtf.zeros(mesh, mtf.Shape([A, B, D]), dtype)
        result = build(x)
        mesh_impl = engine(kind)
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl})
        lowering.tensors[result].to_laid_out_tensor()
    return mesh_impl.records, graph


def weights(x: mtf.Tensor, *dims: mtf.Dimension) -> mtf.Tensor:
    return mtf.ones(x.mesh, mtf.Shape(list(dims)), x.dtype)


BUILD = {
    "einsum": lambda x: mtf.einsum([x, weights(x, B, E)], mtf.Shape([A, D, E])),
    "sum over both": mtf.reduce_sum,
    "sum over an axis of 1": lambda x: mtf.einsum([x, weights(x, E)], mtf.Shape([A, B])),
    "all-to-all": lambda x: mtf.reshape(
        mtf.einsum([x, weights(x, WIDE)], mtf.Shape([A, B, WIDE, D])),
        mtf.Shape([A, WHOLE, C, D]),
    ),
    "all-gather": lambda x: mtf.reshape(x, mtf.Shape([A, WHOLE, D])),
    "maximum": lambda x: mtf.reduce_max(x, output_shape=mtf.Shape([D])),
    "shift by blocks": lambda x: mtf.shift(x, -2, B, wrap=True),
    "shift by more than a block": lambda x: mtf.shift(x, 3, B, wrap=True),
    "shift within blocks": lambda x: mtf.shift(x, 5, A, wrap=False),
}

# A device has [6, 2, 3] of x.
BY_HAND = {
    ("einsum", CPU): [(ALL_REDUCE, COLS, (6, 3, 5))],
    ("sum over both", CPU): [(ALL_REDUCE, BOTH, ())],
    ("sum over an axis of 1", CPU): [],
    ("all-to-all", CPU): [(ALL_TO_ALL, COLS, (6, 2, 16, 3))],
    ("all-gather", CPU): [(ALL_GATHER, COLS, (6, 2, 3))],
    ("maximum", CPU): [(ALL_REDUCE, BOTH, (3,))],
    ("shift by blocks", CPU): [(SHIFT, COLS, (6, 2, 3))],
    ("shift by more than a block", CPU): [(SHIFT, COLS, (6, 1, 3)), (SHIFT, COLS, (6, 1, 3))],
    # Five of six rows come from the device before, one stays.
    ("shift within blocks", CPU): [(SHIFT, ROWS, (5, 2, 3))],
}
# Slices among zeros, added up; for a maximum, axis by axis.
BY_HAND.update({(name, TPU): found for (name, _), found in list(BY_HAND.items())})
BY_HAND["all-gather", TPU] = [(ALL_REDUCE, COLS, (6, 8, 3))]
BY_HAND["maximum", TPU] = [(ALL_REDUCE, ROWS, (2, 3)), (ALL_REDUCE, COLS, (4, 3))]


@pytest.mark.parametrize("kind", [CPU, TPU])
@pytest.mark.parametrize("name", BUILD)
def test_equals_counts_by_hand(name: str, kind: str) -> None:
    records, _ = lowered(kind, BUILD[name])
    assert [(each.kind, each.axes, each.shape) for each in records] == BY_HAND[name, kind]
    assert {each.asked for each in records} == {each[0] for each in BY_HAND[name, CPU]}
    assert {each.loops for each in records} <= {()}
    sizes = {"rows": 2, "cols": 4}
    assert all(each.group == math.prod(sizes[axis] for axis in each.axes) for each in records)


# What a TPU sends of each type, beside what it is given: sums of bfloat16 over more than four
# devices here, and of integers, as float32; all-to-alls of float32 as bfloat16.
SENT = [
    ("einsum", tf.float32, tf.float32),
    ("einsum", tf.bfloat16, tf.bfloat16),
    ("einsum", tf.int32, tf.float32),
    ("sum over both", tf.bfloat16, tf.float32),
    ("all-gather", tf.int32, tf.float32),
    ("all-to-all", tf.float32, tf.bfloat16),
    ("all-to-all", tf.bfloat16, tf.bfloat16),
    ("all-to-all", tf.int32, tf.int32),
    ("shift by blocks", tf.float32, tf.float32),
    ("shift by blocks", tf.bfloat16, tf.bfloat16),
    ("shift by blocks", tf.int32, tf.int32),
]


@pytest.mark.parametrize(("name", "given", "sent"), SENT, ids=lambda x: getattr(x, "name", x))
def test_types_are_those_that_are_sent(name: str, given: tf.DType, sent: tf.DType) -> None:
    (on_tpu,), _ = lowered(TPU, BUILD[name], given)
    assert on_tpu.dtype == sent
    assert on_tpu.size == math.prod(on_tpu.shape) * sent.size
    (on_cpu,), _ = lowered(CPU, BUILD[name], given)
    assert on_cpu.dtype == given


def test_devices_of_a_tpu_agree_on_random_numbers_by_sending_them() -> None:
    """Those of `mtf.random_uniform` and the like; `hmoe.mesh.randomness` sends nothing."""

    def build(x: mtf.Tensor) -> mtf.Tensor:
        return mtf.random_normal(x.mesh, mtf.Shape([A, D]))

    (record,), _ = lowered(TPU, build)
    assert record[:4] == (ALL_REDUCE, COLS, tf.float32, (6, 3))
    assert lowered(CPU, build)[0] == []


TPU_OPERATIONS = {
    "AllToAll": ALL_TO_ALL,
    "CrossReplicaSum": ALL_REDUCE,
    "CollectivePermute": SHIFT,
}


def in_tpu_graph(graph: tf.Graph) -> list[tuple]:
    """Kind, type, shape and size of the groups of each collective of groups of two or more."""
    found = []
    for op in graph.get_operations():
        if op.type not in TPU_OPERATIONS:
            continue
        sent = op.inputs[0]
        pairs = tf.get_static_value(op.inputs[1])
        if op.type == "CollectivePermute":
            if all(source == target for source, target in pairs):
                continue
            group = None
        else:
            group = pairs.shape[1]
        if group != 1:
            found.append((TPU_OPERATIONS[op.type], sent.dtype, tuple(sent.shape.as_list()), group))
    return found


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.int32], ids=lambda x: x.name)
def test_equals_the_collectives_of_a_tpu_program(dtype: tf.DType) -> None:
    def build(x: mtf.Tensor) -> mtf.Tensor:
        results = [fn(x) for name, fn in BUILD.items() if name != "maximum" or dtype.is_floating]
        return mtf.add_n([mtf.reduce_sum(mtf.cast(each, tf.float32)) for each in results])

    records, graph = lowered(TPU, build, dtype)
    assert len(records) > 9
    recorded = [
        (each.kind, each.dtype, each.shape, None if each.kind == SHIFT else each.group)
        for each in records
    ]
    assert recorded == in_tpu_graph(graph)


@pytest.mark.parametrize("kind", [CPU, TPU])
def test_loops_have_names_and_sums_after_them_none(kind: str) -> None:
    def build(x: mtf.Tensor) -> mtf.Tensor:
        def body(number: mtf.Tensor, total: mtf.Tensor) -> list[mtf.Tensor]:
            gathered = mtf.reshape(x, mtf.Shape([A, WHOLE, D]))
            return [number + 1, total + mtf.reduce_sum(gathered, output_shape=mtf.Shape([A, D]))]

        start = [mtf.zeros(x.mesh, [], tf.int32), mtf.zeros(x.mesh, mtf.Shape([A, D]))]
        _, total = mtf.while_loop(lambda number, _: mtf.less(number, 7), body, start)
        return mtf.reduce_sum(total)

    records, _ = lowered(kind, build)
    assert [(each.asked, each.axes, len(each.loops)) for each in records] == [
        (ALL_GATHER, COLS, 1),
        (ALL_REDUCE, ROWS, 0),
    ]
    (name,) = records[0].loops
    assert "while" in name


def test_program_of_a_tpu_is_no_loop() -> None:
    found: list[Record] = []

    def step() -> tf.Tensor:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        result = BUILD["all-gather"](mtf.zeros(mesh, mtf.Shape([A, B, D])))
        mesh_impl = engine(TPU)
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl})
        found.extend(mesh_impl.records)
        return tf.identity(lowering.tensors[result].to_laid_out_tensor().one_slice)

    with tf.Graph().as_default():
        tpu.replicate(step, [[] for _ in range(8)], device_assignment=tpu_slices.assignment(8))
    assert [(each.asked, each.loops) for each in found] == [(ALL_GATHER, ())]


def test_names_tell_who_sends_and_who_asks() -> None:
    def build(x: mtf.Tensor) -> mtf.Tensor:
        parts = mtf.reduce_sum(x, output_shape=mtf.Shape([A, D]), name="parts")
        return mtf.relu(parts, name="reader")

    (record,), graph = lowered(CPU, build)
    assert record.scope.startswith("reader")
    assert record.source.startswith("parts")
    graph.get_tensor_by_name(record.result)


def test_what_nobody_runs_is_left_out() -> None:
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        x = mtf.zeros(mesh, mtf.Shape([A, B, D]))
        used, unused = BUILD["all-to-all"](x), BUILD["all-gather"](x)
        mesh_impl = engine(CPU)
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl})
        roots = {each: lowering.export_to_tf_tensor(each) for each in (used, unused)}
    assert [each.kind for each in mesh_impl.records] == [ALL_TO_ALL, ALL_GATHER]
    for tensor, kind in ((used, ALL_TO_ALL), (unused, ALL_GATHER)):
        for root in (roots[tensor], roots[tensor].op):
            found = recording.run_by(mesh_impl.records, [root])
            assert [each.kind for each in found] == [kind]


def layer_step(mesh_impl: Any, sizes: mtf.Shape) -> list[tf.Tensor | tf.Operation]:
    """Lowers the training step of a layer of two levels; returns what is to be run."""
    step = two_level_step(sizes)
    lowering = mtf.Lowering(step.mesh.graph, {step.mesh: mesh_impl}, autostack=False)
    roots = [lowering.lowered_operation(update) for update in step.updates]
    return [*roots, lowering.export_to_tf_tensor(step.loss)]


def layer_records(make: Any) -> tuple[list[Record], Any]:
    sizes, layout = (
        mtf.convert_to_shape("rows:2;cols:3"),
        mtf.convert_to_layout_rules(meshes.TWO_AXES),
    )
    with tf.Graph().as_default():
        mesh_impl = make(sizes, layout)
        roots = layer_step(mesh_impl, sizes)
        if isinstance(mesh_impl, CollectiveMesh):
            mesh_impl.finish(roots)
        return recording.run_by(mesh_impl.records, roots), mesh_impl


def of_processes(sizes: mtf.Shape, layout: mtf.LayoutRules) -> Any:
    return recording.recorded(CollectiveMesh)(sizes, layout, 0, "")


def test_equals_what_a_process_counts() -> None:
    """Nothing is run: a mesh of processes is lowered in one of them."""
    records, mesh_impl = layer_records(of_processes)
    size: collections.Counter = collections.Counter()
    number: collections.Counter = collections.Counter()
    for each in records:
        # A ring passes each part on n - 1 times, and an all-reduce goes round twice.
        rounds = {ALL_REDUCE: 2, ALL_TO_ALL: 1}[each.kind]
        size[each.kind, each.axes] += round(rounds * each.size * (each.group - 1) / each.group)
        number[each.kind, each.axes] += 1
    traffic = mesh_impl.traffic
    assert len(traffic) > 3
    assert size == {(each.kind, each.axes): each.size for each in traffic}
    assert number == {(each.kind, each.axes): each.tensors for each in traffic}


@pytest.mark.parametrize("reuse_graph", [True, False])
def test_simulated_mesh_sends_what_processes_send(reuse_graph: bool) -> None:
    def simulated(sizes: mtf.Shape, layout: mtf.LayoutRules) -> Any:
        kind = recording.recorded(SharingPlacement)
        return kind(sizes, layout, [""] * 6, reuse_graph=reuse_graph)

    def sent(make: Any) -> collections.Counter:
        records, _ = layer_records(make)
        return collections.Counter((e.kind, e.axes, e.dtype, e.size) for e in records)

    assert sent(simulated) == sent(of_processes)


def test_computes_what_the_engine_computes() -> None:
    def values(kind: Any) -> np.ndarray:
        with tf.Graph().as_default():
            mesh = mtf.Mesh(mtf.Graph(), "mesh")
            numbers = np.random.RandomState(3).normal(size=(12, 8, 3)).astype(np.float32)
            x = mtf.import_tf_tensor(mesh, tf.constant(numbers), mtf.Shape([A, B, D]))
            results = [mtf.anonymize(fn(x)) for fn in BUILD.values()]
            mesh_impl = kind(
                mtf.convert_to_shape(MESH), mtf.convert_to_layout_rules(LAYOUT), [""] * 8
            )
            lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl})
            tensors = [lowering.export_to_tf_tensor(each) for each in results]
            with graphs.quick_session() as session:
                return session.run(tensors)

    recorded = values(recording.recorded(SharingPlacement))
    for one, other in zip(recorded, values(SharingPlacement)):
        np.testing.assert_array_equal(one, other)
