"""A whole training step compiled by XLA, as a TPU compiles it, against the step uncompiled.

The CPU's XLA stands for the TPU's. It compiles under both TensorFlows.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
from tensorflow.python.compiler.xla import xla

from hmoe.startup import gin_files
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import TRAIN, ModelSettings
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions.tpu_sums import LoopSums
from tests import tolerances
from tests.gin import configs
from tests.gin.configs import tf

STEPS = 3
BINDINGS = (
    'utils.run.sequence_length = {"inputs": 16, "targets": 16}',
    f"utils.run.train_steps = {STEPS}",
    "utils.run.batch_size = 8",
    "num_blocks = 1",
    "d_model = 24",
    "d_ff = 16",
    "num_heads = 2",
    "d_kv = 8",
    "group_size = 32",
    "inner_group_size = 32",
    "num_outer_experts = 3",
    "num_inner_experts = 4",
    "dropout_rate = 0.1",
)
ROUTERS = sorted(
    file.stem for file in (pathlib.Path(gin_files.folder()) / "models" / "routers").glob("*.gin")
)
# (engine, router, number of microbatches): each engine meets each router, and each engine is in
# microbatches and without.
CASES = [
    ("einsum", "top_2", 2),
    ("index", "top_2", 1),
    *[case for router in ROUTERS for case in (("einsum", router, 1), ("index", router, 2))],
]


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
    """Has XLA compile in half the time; it reads this when it first compiles."""
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    yield
    del os.environ["XLA_FLAGS"]


def trained(settings: ModelSettings, compiled: bool) -> dict[str, np.ndarray]:
    """Trains from the same weights; returns loss and sums of each step, and the last weights."""
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(1)
        tf.train.create_global_step()
        given = {name: tf.constant(ids) for name, ids in configs.features(settings).items()}
        built = []

        def step() -> list[tf.Tensor]:
            built.append(build.build_graph(settings, given, TRAIN, add_up_sums=True))
            with tf.control_dependencies([built[0].train_op]):
                return [tf.identity(x) for x in (built[0].loss, *built[0].sums.values())]

        fetches = xla.compile(step) if compiled else step()
        check_draws(graph)
        return run(fetches, built[0])


def run(fetches: list[tf.Tensor], graph: TrainingGraph) -> dict[str, np.ndarray]:
    names = ["loss", *(f"{key.layer}/{key.name}" for key in graph.sums)]
    to_slices = graph.lowering.copy_masters_to_slices()
    to_masters = graph.lowering.copy_slices_to_masters()
    loop_sums = LoopSums(graph)
    found: dict[str, np.ndarray] = {}
    with configs.session() as session:
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        session.run(to_slices)
        for number in range(STEPS):
            for name, value in zip(names, session.run(fetches)):
                found[f"{name} of step {number}"] = value
        for key, value in loop_sums.take(session).items():
            found[f"total of {key.layer}/{key.name}"] = value
        session.run(to_masters)
        for variable in tf.global_variables():
            found[variable.op.name] = session.run(variable)
    return found


def check_draws(graph: tf.Graph) -> None:
    """All numbers that a step draws come from the bits that are the same everywhere."""
    drawing = [
        op.type
        for op in graph.get_operations()
        if "Random" in op.type and "/Initializer/" not in op.name
    ]
    assert set(drawing) == {"StatelessRandomUniformFullIntV2"}


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "router", "microbatches"), CASES)
def test_equals_the_uncompiled_step(
    engine: str, router: str, microbatches: int, tmp_path: pathlib.Path
) -> None:
    files = ["models/hierarchical_tiny.gin", "layouts/one_device.gin"]
    if router != "top_2":
        files.insert(1, f"models/routers/{router}.gin")
    tokens = 8 * 16 // microbatches
    bindings = [
        *BINDINGS,
        f"hmoe.HierarchicalMoE.engine = '{engine}'",
        f"utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = {tokens}",
    ]
    with configs.parsed(files, bindings):
        settings = configs.described(str(tmp_path)).settings
        expected, found = trained(settings, compiled=False), trained(settings, compiled=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerances.assert_close(found[name], value, tolerances.MESHES, name)
