from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.t5.graphs import build, training
from hmoe.t5.graphs.model_settings import TRAIN
from tests.t5 import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> training.TrainingGraph:
    """A training step with one expert layer per stack, on 2 x 2, in the default graph."""
    folder: Path = tmp_path_factory.mktemp("graph")
    estimator = tiny.make(folder, model="hierarchical_tiny", layout="cpu_2x2", autostack=False)
    tf.reset_default_graph()
    tf.train.get_or_create_global_step()
    features = {name: tf.constant(rows) for name, rows in tiny.ids(tiny.BATCH).items()}
    return build.build_graph(estimator.settings, features, TRAIN)


def test_every_weight_is_read_once_a_step(graph: training.TrainingGraph) -> None:
    # With a read for each pass, the optimizer could assign between them.
    reads = Counter(
        op.inputs[0].op.name
        for op in graph.loss.graph.get_operations()
        if op.type == "ReadVariableOp" and _is_multiplied(op.outputs[0])
    )
    # On each of 4 devices, three matrices of each of two expert layers, and more.
    assert len(reads) >= 4 * 2 * 3
    assert max(reads.values()) == 1, reads


def _is_multiplied(tensor: tf.Tensor) -> bool:
    """Returns whether a matrix multiplication uses the tensor, also after a reshape."""
    for user in tensor.consumers():
        if "MatMul" in user.type or user.type == "Einsum":
            return True
        if user.type in ("Identity", "Cast", "Reshape", "Transpose") and _is_multiplied(
            user.outputs[0]
        ):
            return True
    return False


def test_each_level_exchanges_along_its_own_axis(graph: training.TrainingGraph) -> None:
    exchanged = [name for name, _ in graph.lowering.counters if name.startswith("alltoall/")]
    layers = 2
    # Tokens go out and come back, and their gradients too.
    tokens = 4 * layers
    # Importance goes out over the first level's axis; whether tokens reached experts comes back.
    small = 2 * layers
    assert exchanged.count("alltoall/0/reshape_op") == tokens
    assert exchanged.count("alltoall/1/reshape_op") == tokens + small


def test_each_device_holds_a_quarter_of_the_experts(graph: training.TrainingGraph) -> None:
    found = []
    for variable, laid_out in graph.lowering.variables.items():
        if re.search(r"MoELayer/w[io][_01]*/kernel$", variable.name):
            found.append(variable.name)
            for piece in laid_out.laid_out_tensor.all_slices:
                assert np.prod(piece.shape.as_list()) * 4 == variable.shape.size
    assert len(found) == 6, found
