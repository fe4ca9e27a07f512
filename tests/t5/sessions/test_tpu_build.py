"""The graphs of a TPU slice, built inside `tpu.replicate` as `TPUEstimator` builds them.

The context is made up, so nothing is run: what a TPU does with the graphs only a TPU can show.
"""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
from tensorflow.python.tpu import tpu

from hmoe import compat
from hmoe.t5.graphs.model_settings import EVAL, PREDICT
from hmoe.t5.graphs.sums import model_sum
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.tpu_hooks import LoopAlarmHook, LoopReportHook
from tests import tpu_slices
from tests.gin import configs
from tests.gin.configs import tf

pytestmark = pytest.mark.skipif(
    not compat.tpu_estimator_is_real(), reason="this TensorFlow has no TPUEstimator"
)

NUM_CORES = [8, 32]


class Built:
    """A graph of a mode on a slice.

    Attributes:
      num_cores: the cores of the slice.
      result: what the model function has built.
      inside: the operations of the program that all cores run.
      graph: TensorFlow's graph.
      step: in training, the graph of a step.
      loop_sums: in training, what takes the sums.
    """

    def __init__(self, num_cores: int, folder: Path, mode: str):
        from hmoe.t5.sessions import tpu_estimator as tpu_lib

        layout, fitting = tpu_slices.layout_of(num_cores)
        bindings = [
            *fitting,
            "dropout_rate = 0.1",
            "tpu_estimator_model_fn.tpu_summaries = True",
        ]
        files = ["models/hierarchical_tiny.gin", "models/routers/bias_balanced.gin", layout]
        context = tpu_slices.Context(num_cores)
        self.num_cores = num_cores
        with configs.parsed(files, bindings), tf.Graph().as_default() as self.graph:
            tf.train.create_global_step()
            settings = configs.described(str(folder)).settings
            given = {name: tf.constant(ids) for name, ids in configs.features(settings).items()}
            if mode == PREDICT:
                del given["targets"]

            def step() -> list[tf.Tensor]:
                if mode != "train":
                    self.result = tpu_lib.model_spec(settings, given, mode, context)
                    return [tf.identity(x) for x in self._fetched(mode)]
                alarm = LoopAlarmHook(settings)
                self.step = tpu_lib.training_graph(settings, given, context)
                self.result = tpu_lib.training_spec(
                    settings, SessionSettings(), self.step, alarm, max_steps=9
                )
                self.loop_sums = alarm.loop_sums
                with tf.control_dependencies([self.result.train_op]):
                    return [tf.identity(self.result.loss)]

            tpu.replicate(
                step,
                [[] for _ in range(num_cores)],
                device_assignment=tpu_slices.assignment(num_cores),
            )
            self.saved = {v.op.name: v.device for v in tf.global_variables()}
        self.inside = [
            op for op in self.graph.get_operations() if "_tpu_replicate" in op.node_def.attr
        ]

    def _fetched(self, mode: str) -> list[tf.Tensor]:
        if mode == PREDICT:
            return list(self.result.predictions.values())
        return [self.result.loss, *self.result.eval_metrics[1]]

    def count(self, kind: str) -> int:
        """How many operations of a type all cores run."""
        return sum(op.type == kind for op in self.inside)


@pytest.fixture(scope="module", params=NUM_CORES)
def training(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(request.param, tmp_path_factory.mktemp("run"), "train")


def check_program(built: Built) -> None:
    """What XLA needs of a program: shapes that are known, and no function of the host."""
    unknown = [
        output.name
        for op in built.inside
        for output in op.outputs
        if not output.shape.is_fully_defined()
    ]
    assert not unknown
    types = {op.type for op in built.inside}
    assert not {kind for kind in types if "PyFunc" in kind or kind.startswith("Sparse")}
    assert {kind for kind in types if "Random" in kind} <= {"StatelessRandomUniformFullIntV2"}


def test_training_step_is_one_program(training: Built) -> None:
    check_program(training)
    assert training.count("StatelessRandomUniformFullIntV2")
    # Two layers; forward and backward, out and back, on both levels, and what the outer level
    # sends beside its tokens.
    assert training.count("AllToAll") == 2 * (2 * 2 * 2 + 2)
    assert training.result.host_call is not None


def test_saved_variables_are_spread_over_the_hosts(training: Built) -> None:
    """All but the first, which keeps the programs of all cores and has no room for weights."""
    num_hosts = training.num_cores // 8
    hosts = {device for name, device in training.saved.items() if name != "global_step"}
    assert hosts == {
        f"/job:worker/task:{i}/device:CPU:0" for i in range(min(1, num_hosts - 1), num_hosts)
    }


def test_sums_leave_by_a_variable_that_is_not_saved(training: Built) -> None:
    added_up = training.step.added_up
    assert "sums_of_steps" not in training.saved
    handles = [
        op.device
        for op in training.graph.get_operations()
        if op.type == "VarHandleOp" and "sums_of_steps_slice_" in op.name
    ]
    assert len(handles) == len(set(handles)) == training.num_cores
    assert {key for key in added_up.keys if not key.layer} >= {
        model_sum(name) for name in ("steps", "loss", "learning_rate", "below_zero", "tokens")
    }
    # The host reads and resets it, outside of the program.
    inside = {op.name for op in training.inside}
    for operation in training.loop_sums.operations:
        assert operation.name not in inside


def test_one_hook_saves(training: Built) -> None:
    """`TPUEstimator` would add one of its own if there were none."""
    savers = [
        hook
        for hook in training.result.training_hooks
        if isinstance(hook, tf.train.CheckpointSaverHook)
    ]
    assert [type(hook) for hook in savers] == [LoopReportHook]


@pytest.mark.parametrize("num_cores", NUM_CORES)
@pytest.mark.parametrize("mode", [EVAL, PREDICT])
def test_evaluation_and_prediction_are_one_program(
    num_cores: int, mode: str, tmp_path: Path
) -> None:
    built = Built(num_cores, tmp_path, mode)
    check_program(built)
    types = collections.Counter(op.type for op in built.inside)
    assert types["AllToAll"]
    assert not types["StatelessRandomUniformFullIntV2"]
