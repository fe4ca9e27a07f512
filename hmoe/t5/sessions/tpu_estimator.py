"""The same model under `TPUEstimator`, which the TensorFlow of the TPU line is the last to have.

The host of a TPU sees nothing of a step. Its sums add up on the mesh, and `tpu_hooks` reads them
between two loops of `utils.run.iterations_per_loop` steps: alarm, reports and checkpoints are those
of sessions. With `tpu_estimator_model_fn.tpu_summaries = True`, a host call also writes `loss` and
`cross_ent_loss` of each step for TensorBoard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import gin.tf
import numpy as np
from absl import flags
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.tpu import tpu_config, tpu_estimator

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs import build
from hmoe.t5.graphs.decoding import DecodingGraph
from hmoe.t5.graphs.evaluation import EvaluationGraph
from hmoe.t5.graphs.model_settings import EVAL, PREDICT, SCORE, TRAIN, Mode, ModelSettings
from hmoe.t5.graphs.sums import model_sum
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import run_metrics, warm_start
from hmoe.t5.sessions.estimator_protocol import Estimator, InputFn, ServingInputReceiver
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.tpu_hooks import LoopAlarmHook, LoopReportHook

# Bytes that a host keeps for the compiled program of one replica, as upstream estimates them.
_CACHE_PER_REPLICA = 300 * 1000000


class TPUContext(Protocol):
    """The part of `params["context"]` of `TPUEstimator` that is read here.

    Attributes:
      device_assignment: the cores that each replica runs on.
      num_hosts: number of hosts of the TPU.
      num_replicas: number of replicas.
    """

    device_assignment: tf.tpu.experimental.DeviceAssignment
    num_hosts: int
    num_replicas: int

    def tpu_host_placement_function(self, host_id: int) -> str:
        """Returns the name of a host's device."""


def _mark_flags_as_parsed() -> None:
    """Lets Mesh TensorFlow read absl's flags for the layout of chips; `hmoe` parses its own."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def engine(settings: ModelSettings, context: TPUContext) -> mtf.MeshImpl:
    """Returns the mesh implementation of a TPU slice, laid onto the cores as upstream lays it.

    Args:
      settings: the model's settings.
      context: `params["context"]` of `TPUEstimator`.
    """
    _mark_flags_as_parsed()
    simd = mtf.simd_mesh_impl
    physical = [int(size) for size in context.device_assignment.topology.mesh_shape]
    has_depth = len(physical) == 4 and physical[2] > 1
    if len(physical) == 4:
        physical = simd.physical_shape_3d_from_topology_proto_4d(physical)
    if has_depth or settings.hierarchical_tiling_spec is None:
        order = simd.auto_logical_to_physical_tpu(
            settings.mesh_shape.to_integer_list,
            physical,
            device_assignment=context.device_assignment,
        )
    else:
        tiling = simd.HierarchicalTiling(settings.hierarchical_tiling_spec, physical)
        order = tiling.logical_to_physical
    return simd.SimdMeshImpl(
        settings.mesh_shape,
        settings.layout_rules,
        settings.mesh_devices,
        context.device_assignment,
        logical_to_physical=order,
    )


def variable_placer(context: TPUContext) -> mtf.utils.BalancedVariablePlacer:
    """Returns what spreads the saved variables over the memory of the hosts."""
    hosts = [context.tpu_host_placement_function(host_id=i) for i in range(context.num_hosts)]
    # The first host keeps the programs of all replicas.
    used = [_CACHE_PER_REPLICA * context.num_replicas] + [0] * (context.num_hosts - 1)
    return mtf.utils.BalancedVariablePlacer(hosts, used)


class LoopEstimator(Estimator):
    """Trains and runs a model by `TPUEstimator`, with the alarm, reports and saves of sessions.

    Args:
      settings: the model's settings.
      session: settings of reports and checks.
      **arguments: arguments of `TPUEstimator`, which lets no subclass replace a method.

    Attributes:
      settings: the model's settings.
    """

    def __init__(self, settings: ModelSettings, session: SessionSettings, **arguments: Any):
        self.settings = settings
        self._session = session
        self._max_steps = 0
        self._alarm: LoopAlarmHook | None = None
        self._estimator = tpu_estimator.TPUEstimator(model_fn=self._build, **arguments)

    def train(
        self, input_fn: InputFn, max_steps: int, hooks: Sequence[tf.train.SessionRunHook] = ()
    ) -> LoopEstimator:
        """Trains until the global step is `max_steps`, from the newest checkpoint.

        Args:
          input_fn: returns a dataset of batches.
          max_steps: the global step to stop at.
          hooks: session hooks to run beside the estimator's own.

        Returns:
          This estimator.

        Raises:
          RunFailedError: the loss, the learning rate or a weight cannot be right.
        """
        self._max_steps, self._alarm = max_steps, LoopAlarmHook(self.settings)
        self._estimator.train(input_fn, hooks=[self._alarm, *hooks], max_steps=max_steps)
        return self

    def predict(
        self, input_fn: InputFn, checkpoint_path: str | None = None
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields predictions, or scores, for one row after another."""
        return self._estimator.predict(input_fn, checkpoint_path=checkpoint_path)

    def evaluate(
        self,
        input_fn: InputFn,
        steps: int | None = None,
        checkpoint_path: str | None = None,
        name: str | None = None,
    ) -> Mapping[str, float]:
        """Returns metrics by teacher forcing."""
        return self._estimator.evaluate(
            input_fn, steps=steps, checkpoint_path=checkpoint_path, name=name
        )

    def export_saved_model(
        self,
        export_dir: str,
        serving_input_fn: Callable[[], ServingInputReceiver],
        checkpoint_path: str | None = None,
    ) -> str:
        """Exports a SavedModel and returns its folder."""
        return self._estimator.export_saved_model(
            export_dir, serving_input_fn, checkpoint_path=checkpoint_path
        )

    def latest_checkpoint(self) -> str | None:
        """Returns the path prefix of the newest checkpoint, or None."""
        return self._estimator.latest_checkpoint()

    def get_variable_value(self, name: str) -> np.ndarray:
        """Returns a variable's value in the newest checkpoint."""
        return self._estimator.get_variable_value(name)

    # TensorFlow looks at the names of the parameters.
    def _build(
        self,
        features: dict[str, tf.Tensor],
        labels: None,
        mode: Mode,
        params: dict,
        config: tpu_config.RunConfig | None = None,
    ) -> tpu_estimator.TPUEstimatorSpec:
        del labels, config
        settings = self.settings
        context = params.get("context") if settings.use_tpu else None
        if mode != TRAIN:
            return model_spec(settings, features, mode, context)
        assert self._alarm is not None, "train makes it"
        graph = training_graph(settings, features, context)
        return training_spec(settings, self._session, graph, self._alarm, self._max_steps)


def estimator(
    settings: ModelSettings,
    cluster: tf.distribute.cluster_resolver.TPUClusterResolver | None,
    tpu_job_name: str | None,
    iterations_per_loop: int,
    session: SessionSettings | None = None,
) -> LoopEstimator:
    """Returns the estimator of a model for a TPU.

    Args:
      settings: the model's settings.
      cluster: the TPU's cluster.
      tpu_job_name: name of the TPU's worker job, or None.
      iterations_per_loop: steps that the TPU runs between two visits of the host.
      session: settings of reports and checks.

    Raises:
      ValueError: this TensorFlow has no `TPUEstimator`.
    """
    options = rewriter_config_pb2.RewriterConfig(disable_meta_optimizer=True)
    config = tpu_config.RunConfig(
        cluster=cluster,
        model_dir=settings.model_dir,
        tpu_config=tpu_config.TPUConfig(
            tpu_job_name=tpu_job_name,
            iterations_per_loop=iterations_per_loop,
            num_cores_per_replica=1,
            per_host_input_for_training=tpu_config.InputPipelineConfig.BROADCAST,
        ),
        session_config=tf.ConfigProto(graph_options=tf.GraphOptions(rewrite_options=options)),
        # `LoopHook` saves.
        save_checkpoints_steps=None,
        save_checkpoints_secs=None,
    )
    return LoopEstimator(
        settings,
        session or SessionSettings(),
        config=config,
        train_batch_size=settings.batch_size,
        eval_batch_size=settings.batch_size,
        predict_batch_size=settings.batch_size,
        use_tpu=bool(settings.use_tpu),
        export_to_tpu=False,
        params={},
    )


def training_graph(
    settings: ModelSettings, features: dict[str, tf.Tensor], context: TPUContext | None
) -> TrainingGraph:
    """Builds the graph of one training step, which adds up its sums on the mesh.

    Args:
      settings: the model's settings.
      features: int [batch, length] each.
      context: `params["context"]` of `TPUEstimator`; None for a mesh of CPUs.
    """
    return build.build_graph(settings, features, TRAIN, *_mesh(settings, context), add_up_sums=True)


def model_spec(
    settings: ModelSettings,
    features: dict[str, tf.Tensor],
    mode: Mode,
    context: TPUContext | None,
) -> tpu_estimator.TPUEstimatorSpec:
    """Builds the graph of an evaluation or a prediction, for `TPUEstimator`.

    Args:
      settings: the model's settings.
      features: int [batch, length] each.
      mode: EVAL or PREDICT.
      context: `params["context"]` of `TPUEstimator`; None for a mesh of CPUs.
    """
    mesh = _mesh(settings, context)
    if mode == EVAL:
        return _evaluation_spec(build.build_graph(settings, features, EVAL, *mesh))
    if settings.score_in_predict_mode:
        return _prediction_spec(build.build_graph(settings, features, SCORE, *mesh))
    return _prediction_spec(build.build_graph(settings, features, PREDICT, *mesh))


def _mesh(
    settings: ModelSettings, context: TPUContext | None
) -> tuple[mtf.MeshImpl | None, mtf.utils.BalancedVariablePlacer | None]:
    """Returns the engine and the placer of a TPU, or what stands for those of a mesh of CPUs."""
    if context is None:
        return None, None
    return engine(settings, context), variable_placer(context)


def training_spec(
    settings: ModelSettings,
    session: SessionSettings,
    graph: TrainingGraph,
    alarm: LoopAlarmHook,
    max_steps: int,
) -> tpu_estimator.TPUEstimatorSpec:
    """Says what `TPUEstimator` is to do with the graph of a training step.

    Args:
      settings: the model's settings.
      session: settings of reports and checks.
      graph: what `training_graph` has built.
      alarm: a hook of the session that is to train, before all others.
      max_steps: the step that training stops at.
    """
    host_call = None
    if settings.tpu_summaries:
        host_call = mtf.utils.create_host_call(settings.model_dir)
        mtf.utils.remove_summaries()
    with mtf.utils.outside_all_rewrites():
        warm_start.initialize(settings)
        restore = mtf.MtfRestoreHook(graph.lowering)
        alarm.watch(graph)
        report = LoopReportHook(alarm, settings, session, graph, max_steps)
        config = gin.tf.GinConfigSaverHook(
            settings.model_dir, summarize_config=True, include_step_in_filename=False
        )
    return tpu_estimator.TPUEstimatorSpec(
        mode=TRAIN,
        loss=graph.loss,
        train_op=graph.train_op,
        host_call=host_call,
        training_hooks=[restore, report, config],
    )


def _evaluation_spec(graph: EvaluationGraph) -> tpu_estimator.TPUEstimatorSpec:
    """Adds up metrics on the host, to which sums leave the TPU as vectors, a number per batch."""
    names: list[str] = [key.name for key in graph.sums if not key.layer]
    vectors = [tf.reshape(graph.sums[model_sum(name)], [1]) for name in names]

    def metrics(*values: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
        return _mean_metrics(dict(zip(names, values)))

    with mtf.utils.outside_all_rewrites():
        restore = mtf.MtfRestoreHook(graph.lowering)
    return tpu_estimator.TPUEstimatorSpec(
        mode=EVAL,
        loss=_evaluation_loss(graph),
        eval_metrics=(metrics, vectors),
        evaluation_hooks=[restore],
    )


def _mean_metrics(sums: dict[str, tf.Tensor]) -> dict[str, tuple[tf.Tensor, tf.Operation]]:
    """Returns TensorFlow metrics, each the quotient of two sums over all batches."""

    def ratio(part: str, whole: str) -> tuple[tf.Tensor, tf.Operation]:
        return tf.metrics.mean(tf.math.divide_no_nan(sums[part], sums[whole]), sums[whole])

    return {
        run_metrics.CROSS_ENT_LOSS.name: ratio("cross_entropy", "trained_targets"),
        run_metrics.NEG_LOG_PERPLEXITY.name: ratio("log_likelihood", "targets"),
        run_metrics.TOKEN_ACCURACY.name: ratio("right", "targets"),
        run_metrics.SEQUENCE_ACCURACY.name: ratio("right_rows", "rows"),
    }


def _evaluation_loss(graph: EvaluationGraph) -> tf.Tensor:
    """Returns the loss of one batch, as `run_metrics.evaluation_metrics` has it."""
    sums = graph.sums
    of_layers = sums[model_sum("other_losses")] + sums[model_sum("expert_losses")]
    loss = tf.math.divide_no_nan(sums[model_sum("cross_entropy")], sums[model_sum("denominator")])
    return loss + tf.math.divide_no_nan(of_layers, sums[model_sum("targets")])


def _prediction_spec(graph: DecodingGraph) -> tpu_estimator.TPUEstimatorSpec:
    to_slices = graph.lowering.copy_masters_to_slices()

    def scaffold() -> tf.train.Scaffold:
        # An exported model has no hooks; whoever loads it runs this after it read the weights.
        return tf.train.Scaffold(
            local_init_op=tf.group(tf.train.Scaffold.default_local_init_op(), to_slices),
            # Slices are no variables that a session could ask for.
            ready_op=tf.report_uninitialized_variables(),
        )

    return tpu_estimator.TPUEstimatorSpec(
        mode=PREDICT,
        predictions=graph.predictions,
        scaffold_fn=scaffold,
        prediction_hooks=[mtf.MtfRestoreHook(graph.lowering)],
    )
