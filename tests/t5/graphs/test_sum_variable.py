"""The variable that adds up the sums of steps, on a simulated mesh."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.t5.graphs import build, sum_variable
from hmoe.t5.graphs.model_settings import TRAIN
from hmoe.t5.graphs.sums import SumKey, model_sum
from hmoe.t5.sessions.tpu_sums import LoopSums
from tests import tolerances
from tests.gin import configs
from tests.gin.configs import tf

BINDINGS = (
    'utils.run.sequence_length = {"inputs": 8, "targets": 8}',
    "utils.run.train_steps = 9",
    "utils.run.batch_size = 8",
    "num_blocks = 1",
    "d_model = 8",
    "d_ff = 4",
    "num_heads = 2",
    "d_kv = 4",
    "group_size = 16",
    "inner_group_size = 16",
    "num_outer_experts = 2",
    "num_inner_experts = 4",
    "bias_update_rate = 0.1",
)
FILES = ("models/hierarchical_tiny.gin", "models/routers/bias_balanced.gin")


@pytest.mark.parametrize(("layout", "microbatches"), [("one_device", 2), ("cpu_2x2", 1)])
def test_totals_equal_the_sums_that_are_fetched(tmp_path, layout, microbatches):
    tokens = 8 * 8 // microbatches // (2 if layout == "cpu_2x2" else 1)
    bindings = [
        *BINDINGS,
        f"utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = {tokens}",
    ]
    with configs.parsed([*FILES, f"layouts/{layout}.gin"], bindings):
        settings = configs.described(str(tmp_path)).settings
        with tf.Graph().as_default():
            tf.train.create_global_step()
            given = {name: tf.constant(ids) for name, ids in configs.features(settings).items()}
            graph = build.build_graph(settings, given, TRAIN, add_up_sums=True)
            loops = LoopSums(graph)
            saved = {variable.op.name for variable in tf.global_variables()}
            with configs.session() as session:
                session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
                session.run(graph.lowering.copy_masters_to_slices())
                for num_steps in (3, 1, 2):
                    expected = steps_of(session, graph, num_steps)
                    found = loops.take(session)
                    assert found.keys() == expected.keys()
                    for key, total in expected.items():
                        assert found[key].shape == total.shape
                        tolerances.assert_close(found[key], total, tolerances.SAME, str(key))
    assert found[sum_variable.STEPS] == 2
    assert {key.layer for key in found} > {"", "encoder/block_000/layer_001"}
    assert "sums_of_steps" not in saved
    assert "encoder/block_000/layer_001/MoELayer/outer_gating/balance_bias" in saved


def steps_of(session, graph, num_steps: int) -> dict[SumKey, np.ndarray]:
    """Runs steps; returns the totals of what is fetched in each."""
    fetches = {
        model_sum("loss"): graph.loss,
        model_sum("learning_rate"): graph.learning_rate,
        **graph.sums,
    }
    fetched = [session.run([fetches, graph.train_op])[0] for _ in range(num_steps)]
    totals = {key: np.sum([each[key] for each in fetched], 0, np.float64) for key in fetches}
    return {sum_variable.STEPS: np.float64(num_steps), **totals}
