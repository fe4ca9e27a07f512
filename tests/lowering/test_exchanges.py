"""The collectives in the graph of one process; nothing is run, so no other process is needed."""

from __future__ import annotations

import pytest

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.lower import lower, make_mesh_of_processes
from tests import meshes
from tests.lowering.two_level_step import two_level_step

CPU = "/job:worker/replica:0/task:{}/device:CPU:0"
GPU = "/job:worker/replica:0/task:{}/device:GPU:0"
COLLECTIVES = ("CollectiveReduceV2", "CollectiveAllToAllV2", "CollectiveGatherV2")


class Built:
    """The graph of a layer's training step in one process.

    Attributes:
      graph: TensorFlow's graph.
      mesh_impl: the mesh.
    """

    def __init__(
        self, number: int = 0, shape: str = "rows:2;cols:2", device: str = CPU, **how: str
    ):
        sizes = mtf.convert_to_shape(shape)
        with tf.Graph().as_default() as self.graph:
            step = two_level_step(sizes)
            self.mesh_impl = make_mesh_of_processes(
                sizes,
                mtf.convert_to_layout_rules(meshes.TWO_AXES),
                number,
                device.format(number),
                **how,
            )
            lowering = lower(step.loss, self.mesh_impl)
            roots = [lowering.lowered_operation(update) for update in step.updates]
            self.mesh_impl.finish([*roots, lowering.export_to_tf_tensor(step.loss)])

    @property
    def collectives(self) -> list[tf.Operation]:
        """The collectives that are run, in the order in which they were made."""
        made = [op for op in self.graph.get_operations() if op.type in COLLECTIVES]
        return made[: len(self.mesh_impl.exchanges.lines)]

    @property
    def operations(self) -> int:
        """The number of operations but for constants, of which equal ones are one."""
        return len([op for op in self.graph.get_operations() if op.type != "Const"])


@pytest.fixture(scope="module")
def built() -> Built:
    return Built()


def test_tokens_and_gradients_share_collectives(built: Built) -> None:
    kinds = [op.type for op in built.collectives]
    # Out and back along each axis, and the gradients as far as the experts: nobody asked for that
    # of the inputs.
    assert kinds.count("CollectiveAllToAllV2") == 6
    # Gradients and loss over both axes, and gradients of the inner gate over the inner axis.
    assert kinds.count("CollectiveReduceV2") <= 4
    assert kinds.count("CollectiveGatherV2") == 0
    first = built.mesh_impl.exchanges.lines[0]
    assert first.startswith("all-to-all along cols of float32[2, 3, 2, "), first
    assert ", 5], float32[2, 3, 2, " in first  # tokens and their importance


def test_each_collective_waits_for_the_one_before(built: Built) -> None:
    """Whatever their inputs: then no two processes can run them in different orders."""
    for before, after in zip(built.collectives, built.collectives[1:]):
        waits, found = [after], set()
        while waits:
            op = waits.pop()
            if op in found:
                continue
            found.add(op)
            waits += [*op.control_inputs, *(each.op for each in op.inputs)]
        assert before in found


def test_all_processes_have_the_same_collectives(built: Built) -> None:
    others = [Built(number) for number in (1, 2, 3)]
    lines = built.mesh_impl.exchanges.lines
    assert len(lines) > 8
    assert all(other.mesh_impl.exchanges.lines == lines for other in others)
    # One group for each line of the mesh: two along each axis, and one of all.
    keys = {(op.get_attr("merge_op") if "Reduce" in op.type else "") for op in built.collectives}
    assert keys == {"", b"Add"}
    groups = {
        tuple(sorted((peers.axes, peers.key) for peers in each.mesh_impl._peers.values()))
        for each in [built, *others]
    }
    found = {pair for group in groups for pair in group}
    assert {axes: len([1 for a, _ in found if a == axes]) for axes, _ in found} == {
        ("rows",): 2,
        ("cols",): 2,
        ("rows", "cols"): 1,
    }


def test_the_graph_does_not_grow_with_the_mesh(built: Built) -> None:
    large = Built(shape="rows:16;cols:8")
    assert len(large.collectives) == len(built.collectives)
    assert large.operations == built.operations


def test_on_a_gpu_tensors_stay_there_and_go_by_nccl() -> None:
    """Names of devices and the way of communication; no GPU was at hand to run it."""
    on_gpu = Built(number=3, device=GPU, hint="nccl")
    assert {op.device for op in on_gpu.collectives} == {GPU.format(3)}
    assert {op.get_attr("communication_hint") for op in on_gpu.collectives} == {b"nccl"}
    slices = on_gpu.mesh_impl.own_variables
    assert slices
    assert {variable.device for variable in slices} == {GPU.format(3)}


def test_collectives_of_a_cpu_choose_their_way(built: Built) -> None:
    assert {op.device for op in built.collectives} == {CPU.format(0)}
    assert {op.get_attr("communication_hint") for op in built.collectives} == {b"auto"}


def test_what_is_not_finished_cannot_run() -> None:
    with tf.Graph().as_default():
        mesh_impl = CollectiveMesh(
            mtf.convert_to_shape("all:2"), mtf.convert_to_layout_rules(""), 0, ""
        )
        laid_out = mesh_impl.LaidOutTensor([tf.ones([2])])
        reduced = mesh_impl.allreduce(laid_out, [0], "SUM").one_slice
        with tf.Session() as session, pytest.raises(tf.errors.InvalidArgumentError):
            session.run(reduced)


def test_what_nobody_needs_shares_nothing() -> None:
    with tf.Graph().as_default() as graph:
        mesh_impl = CollectiveMesh(
            mtf.convert_to_shape("all:2"), mtf.convert_to_layout_rules(""), 0, ""
        )
        slices = [mesh_impl.LaidOutTensor([tf.fill([size], 1.0)]) for size in (2, 3, 5)]
        sums = [mesh_impl.allreduce(each, [0], "SUM").one_slice for each in slices]
        mesh_impl.finish([sums[0], sums[2]])
        reductions = [op for op in graph.get_operations() if op.type == "CollectiveReduceV2"]
        assert [op.inputs[0].shape.as_list() for op in reductions] == [[7], [3]]
        # All-reduces of 2 + 5 numbers go round a ring of two twice, half of them at a time.
    assert [(each.tensors, each.size) for each in mesh_impl.traffic] == [(2, 7 * 4)]
