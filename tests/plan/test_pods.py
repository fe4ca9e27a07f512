"""The program of each shipped TPU layout: who exchanges what with whom, and that nothing is whole.

A training step with the optimizer and the sums that a TPU adds up between two reports is lowered for
all cores of a slice, without a TPU. A mesh axis has a group of cores for each place along the others.
"""

from __future__ import annotations

import collections
import functools
import math
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from hmoe.lowering import recording
from hmoe.lowering.exchanges import ALL_GATHER
from hmoe.t5.graphs import build
from tests import tpu_slices
from tests.gin import configs
from tests.gin.configs import mtf, tf

LAYERS = 2  # one of experts in the encoder, one in the decoder
AXES = COLS, ROWS, MODEL = "cols", "rows", "model"

# Examples of a core, their length, and the depth; T5 makes the vocabulary a multiple of 128.
EXAMPLES, LENGTH, D_MODEL, VOCABULARY = 2, 8, 8, 128

TO_EXPERTS, TO_TOKENS = (0, 2), (2, 0)


class Exchange(NamedTuple):
    """A collective of the program.

    Attributes:
      axes: the mesh axes of more than one core along which the cores of its groups differ.
      op: TensorFlow's operation.
    """

    axes: tuple[str, ...]
    op: tf.Operation


class Program:
    """What all cores of a slice run in a training step.

    Attributes:
      num_cores: cores of the slice.
      mesh_impl: the mesh, which has noted its collectives.
      operations: the operations that a step needs.
      step: what is run.
    """

    def __init__(self, num_cores: int, kind: type[mtf.MeshImpl]):
        self.num_cores = num_cores
        layout, bindings = tpu_slices.layout_of(num_cores)
        with (
            configs.parsed(["models/hierarchical_tiny.gin", layout], bindings),
            tempfile.TemporaryDirectory() as folder,
            tf.Graph().as_default(),
        ):
            tf.train.create_global_step()
            settings = configs.described(folder).settings
            assert settings.batch_size == num_cores * EXAMPLES
            given = {name: tf.constant(ids) for name, ids in configs.features(settings).items()}
            self.mesh_impl = tpu_slices.engine(settings, num_cores, recording.recorded(kind))
            # As `tpu_estimator.training_graph` does.
            graph = build.build_graph(settings, given, "train", self.mesh_impl, add_up_sums=True)
            self.step = [graph.train_op, graph.loss]
            self.operations = recording.needed(self.step)

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Sizes of the mesh axes."""
        cols, rows = tpu_slices.axes_of(self.num_cores)
        return {COLS: cols, ROWS: rows, MODEL: 1}

    @functools.cached_property
    def coordinates(self) -> dict[int, tuple[int, ...]]:
        """Where each core is on the mesh; cores have the numbers of the machine."""
        places = np.ndindex(*self.sizes.values())
        return {self.mesh_impl.l2p(number): place for number, place in enumerate(places)}

    def exchanges(self, kind: str) -> list[Exchange]:
        """The collectives of a type, but for those of single cores, which nothing is sent in."""
        found = [
            Exchange(self.axes_of(groups_of(op)), op) for op in self.operations if op.type == kind
        ]
        return [each for each in found if each.axes]

    def axes_of(self, groups: np.ndarray) -> tuple[str, ...]:
        """The axes of groups of cores: all rows of the mesh, all columns, or all cores.

        It fails unless each group is of all cores that differ along these axes alone, and every core
        is in one group.
        """
        assert sorted(groups.flat) == list(range(self.num_cores))
        # [groups, cores of a group, axes of the mesh]
        places = np.array([[self.coordinates[core] for core in group] for group in groups])
        differ = (places != places[:, :1]).any(axis=(0, 1))
        axes = tuple(axis for axis, differs in zip(AXES, differ) if differs)
        lines = collections.defaultdict(set)
        for core, place in self.coordinates.items():
            lines[tuple(at for at, differs in zip(place, differ) if not differs)].add(core)
        assert sorted(map(sorted, groups)) == sorted(map(sorted, lines.values()))
        return axes


def groups_of(op: tf.Operation) -> np.ndarray:
    """The groups of cores of a collective, [groups, cores of a group]."""
    return tf.get_static_value(op.inputs[1])


@functools.cache
def program(num_cores: int) -> Program:
    return Program(num_cores, tpu_slices.ProgramOfCores)


def slices(sizes: Sequence[int]) -> pytest.MarkDecorator:
    """Runs a test for slices of these numbers of cores; large ones are slow."""
    return pytest.mark.parametrize(
        "num_cores",
        [pytest.param(n, marks=pytest.mark.slow) if n > 512 else n for n in sizes],
    )


ALL = sorted(tpu_slices.CHIPS)


@slices(ALL)
def test_tokens_go_to_experts_and_back_along_rows_and_columns(num_cores: int) -> None:
    found: collections.Counter = collections.Counter()
    for axes, op in program(num_cores).exchanges("AllToAll"):
        (axis,) = axes
        size = program(num_cores).sizes[axis]
        split, concat = op.get_attr("split_dimension"), op.get_attr("concat_dimension")
        assert op.get_attr("split_count") == size == groups_of(op).shape[1]
        shape = op.inputs[0].shape.as_list()
        assert shape[split] % size == 0
        shape[split] //= size
        shape[concat] *= size
        assert op.outputs[0].shape.as_list() == shape
        assert op.inputs[0].dtype == tf.bfloat16
        depth = shape[-1]
        found[axis, (split, concat), depth] += 1
    # Forward and backward: the gradient of what went out comes back, and the other way round. The
    # outer level also sends importance, and gets back for each slot how many inner slots its token
    # fills, and their weight.
    assert found == {
        (COLS, TO_EXPERTS, D_MODEL): 2 * LAYERS,
        (COLS, TO_TOKENS, D_MODEL): 2 * LAYERS,
        (COLS, TO_EXPERTS, 1): LAYERS,
        (COLS, TO_TOKENS, 2): LAYERS,
        (ROWS, TO_EXPERTS, D_MODEL): 2 * LAYERS,
        (ROWS, TO_TOKENS, D_MODEL): 2 * LAYERS,
    }


# Kernels and scales of one block: an encoder of attention and experts, a decoder of attention,
# attention to the encoder, and experts.
ATTENTION_KERNELS = 4 * 3
SCALES = (2 + 1) + (3 + 1)  # a norm before each sublayer, and one at the end of each stack
EMBEDDING_AND_LOGITS = 2
RELATIVE_POSITIONS = 2  # of self-attention; the gradient of the bias is added up, not of its table
EXPERT_KERNELS = 3

ALL_REDUCES = {
    (COLS, ROWS): (
        # Gradients of what is whole on each core.
        (ATTENTION_KERNELS + SCALES + EMBEDDING_AND_LOGITS + RELATIVE_POSITIONS)
        + LAYERS  # gates of the outer level
        # Adafactor: the mean square of gradient and update of what is split over all cores.
        + 2 * LAYERS * EXPERT_KERNELS
        + 1  # cross entropy
        # A level's balance loss is one sum by another; beside it the square of its logits, and the
        # tokens that are whole and that are real.
        + LAYERS * 2 * 5
        # For reports: four sums of the model; those of a layer, and of its outer level by
        # expert and in all.
        + 4
        + LAYERS * 3
    ),
    (ROWS,): (
        LAYERS  # gates of the inner level, of which a column has those of its own outer experts
        + LAYERS * 2  # sums of the inner level, by expert and in all
    ),
    (COLS,): (
        2 * LAYERS  # Adafactor, of the gates of the inner level
        + LAYERS * 2  # the inner level's sums, put together for the host
    ),
}


@slices(ALL)
def test_sums_over_cores_are_those_of_weights_and_reports(num_cores: int) -> None:
    found = program(num_cores).exchanges("CrossReplicaSum")
    assert collections.Counter(each.axes for each in found) == ALL_REDUCES
    assert {each.op.inputs[0].dtype for each in found} == {tf.float32}
    assert not program(num_cores).exchanges("CollectivePermute")


@slices(ALL)
def test_tokens_are_never_added_up(num_cores: int) -> None:
    """Nothing that is added up has a size that depends on the tokens."""
    largest = max(
        math.prod(each.op.inputs[0].shape.as_list())
        for each in (program(num_cores).exchanges("CrossReplicaSum"))
    )
    cols, rows = tpu_slices.axes_of(num_cores)
    # Gradients of embedding and gates, and the inner level's sums by expert.
    assert largest == max(VOCABULARY * D_MODEL, D_MODEL * cols, D_MODEL * rows, cols * rows)


def is_gathered(op: tf.Operation) -> bool:
    """Whether a sum puts slices together: `SimdMeshImpl` places each among zeros of a one-hot."""
    source = op.inputs[0].op
    while source.type in ("Cast", "Reshape"):
        source = source.inputs[0].op
    if source.type != "Mul":
        return False
    where = source.inputs[1].op
    return where.type == "Reshape" and where.inputs[0].op.type == "OneHot"


@slices(ALL)
def test_only_sums_of_the_inner_level_are_gathered(num_cores: int) -> None:
    gathered = [
        (each.axes, tuple(each.op.inputs[0].shape.as_list()))
        for each in program(num_cores).exchanges("CrossReplicaSum")
        if is_gathered(each.op)
    ]
    cols, rows = tpu_slices.axes_of(num_cores)
    # By inner expert, and six sums of each outer expert's inner level.
    assert sorted(gathered) == sorted(LAYERS * [((COLS,), (cols, rows)), ((COLS,), (cols, 6))])
    noted = recording.run_by(program(num_cores).mesh_impl.records, program(num_cores).step)
    asked = [(each.axes, each.shape) for each in noted if each.asked == ALL_GATHER]
    assert sorted(asked) == sorted(gathered)


@slices([number for number in ALL if number > 8])
def test_no_core_has_the_tokens_of_all(num_cores: int) -> None:
    """On 8 cores, the logits of a core are larger than one activation of all tokens."""
    # Random numbers alone are drawn for all tokens, and cut (`hmoe.mesh.randomness`).
    outputs = [
        output
        for op in program(num_cores).operations
        if "stateless_uniform" not in op.name
        for output in op.outputs
    ]
    assert all(output.shape.is_fully_defined() for output in outputs)
    tokens = num_cores * EXAMPLES * LENGTH
    assert max(math.prod(output.shape.as_list()) for output in outputs) < tokens * D_MODEL


@slices(ALL)
def test_each_core_has_the_weights_of_one_expert(num_cores: int) -> None:
    cols, rows = tpu_slices.axes_of(num_cores)
    d_ff, heads, buckets = 4, 2, 32
    # Weights of one shape are stacked.
    expected = [
        (2 * LAYERS, 1, 1, D_MODEL, d_ff),  # gated: two kernels into the hidden layer
        (LAYERS, 1, 1, d_ff, D_MODEL),
        (LAYERS, 1, D_MODEL, rows),  # gates of the inner level, of one outer expert
        (LAYERS, D_MODEL, cols),
        (3 * 3, D_MODEL, D_MODEL),  # queries, keys and values; heads are joined
        (3, D_MODEL, D_MODEL),
        (SCALES, D_MODEL),
        (RELATIVE_POSITIONS, heads, buckets),
        (VOCABULARY, D_MODEL),
        (D_MODEL, VOCABULARY),
    ]
    found = [
        tuple(tf.TensorShape(op.get_attr("shape")).as_list())
        for op in program(num_cores).operations
        if op.type == "VarHandleOp" and op.name.endswith("_slice")
        if op.name != "sums_of_steps_slice"
    ]
    # Adafactor keeps a number for each weight of matrices that are this small.
    assert sorted(found) == sorted(2 * expected)


@slices(ALL)
def test_inner_level_stays_inside_a_rectangle_of_chips(num_cores: int) -> None:
    """And the outer level crosses between them: what the two levels are for."""
    found = program(num_cores)
    cores = tpu_slices.assignment(num_cores).core_assignment[:, 0]
    of_rows = collections.defaultdict(list)
    for core, (col, _, _) in found.coordinates.items():
        of_rows[col].append(cores[core])
    for group in map(np.array, of_rows.values()):
        sides = group.max(axis=0) - group.min(axis=0) + 1
        assert sides.prod() == len(group) == found.sizes[ROWS]


def test_program_is_that_of_a_slice_with_a_variable_for_each_core() -> None:
    def described(found: Program) -> collections.Counter:
        return collections.Counter(
            (op.type, str(op.inputs[0].dtype), str(op.inputs[0].shape), groups_of(op).tobytes())
            for op in found.operations
            if op.type in ("AllToAll", "CrossReplicaSum")
        )

    whole = Program(8, mtf.simd_mesh_impl.SimdMeshImpl)
    assert described(whole) == described(program(8))
    variables = [v for v in whole.step[0].graph.get_collection("TPU_VAR") if "wi_0" in v.name]
    assert len(variables) == 8 * 2  # kernels are stacked; those of the optimizer are the others
