"""The same model under `TPUEstimator`, which the TensorFlow of the TPU line is the last to have.

The host of a TPU sees only what a host call sends it: with
`tpu_estimator_model_fn.tpu_summaries = True`, `loss` and `cross_ent_loss` go to TensorBoard during
training. The expert layers' metrics do not leave a TPU; to see them, evaluate a checkpoint of the
run without `--tpu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import gin.tf
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
from hmoe.t5.sessions.mesh_saver import variable_saver

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


def estimator(
    settings: ModelSettings,
    cluster: tf.distribute.cluster_resolver.TPUClusterResolver | None,
    tpu_job_name: str | None,
    iterations_per_loop: int,
) -> tpu_estimator.TPUEstimator:
    """Returns TensorFlow's `TPUEstimator` of a model.

    Args:
      settings: the model's settings.
      cluster: the TPU's cluster.
      tpu_job_name: name of the TPU's worker job, or None.
      iterations_per_loop: steps that the TPU runs between two visits of the host.

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
        save_checkpoints_steps=settings.save_checkpoints_steps,
        save_checkpoints_secs=None,
    )
    return tpu_estimator.TPUEstimator(
        model_fn=model_function(settings),
        config=config,
        train_batch_size=settings.batch_size,
        eval_batch_size=settings.batch_size,
        predict_batch_size=settings.batch_size,
        use_tpu=bool(settings.use_tpu),
        export_to_tpu=False,
        params={},
    )


def model_function(settings: ModelSettings) -> Callable[..., tpu_estimator.TPUEstimatorSpec]:
    """Returns a model function as `TPUEstimator` calls it."""

    def function(
        features: dict[str, tf.Tensor],
        labels: None,
        mode: Mode,
        params: dict,
        config: tpu_config.RunConfig | None = None,
    ) -> tpu_estimator.TPUEstimatorSpec:
        del labels, config
        context = params.get("context") if settings.use_tpu else None
        on_tpu = (engine(settings, context), variable_placer(context)) if context else ()
        if mode == TRAIN:
            return _training_spec(settings, build.build_graph(settings, features, TRAIN, *on_tpu))
        if mode == EVAL:
            return _evaluation_spec(build.build_graph(settings, features, EVAL, *on_tpu))
        if settings.score_in_predict_mode:
            return _prediction_spec(build.build_graph(settings, features, SCORE, *on_tpu))
        return _prediction_spec(build.build_graph(settings, features, PREDICT, *on_tpu))

    return function


def _training_spec(settings: ModelSettings, graph: TrainingGraph) -> tpu_estimator.TPUEstimatorSpec:
    host_call = None
    if settings.tpu_summaries:
        host_call = mtf.utils.create_host_call(settings.model_dir)
        mtf.utils.remove_summaries()
    with mtf.utils.outside_all_rewrites():
        warm_start.initialize(settings)
        restore = mtf.MtfRestoreHook(graph.lowering)
        saver = variable_saver(settings.keep_checkpoint_max)
        save = tf.train.CheckpointSaverHook(
            settings.model_dir,
            save_steps=settings.save_checkpoints_steps,
            saver=saver,
            listeners=[mtf.MtfCheckpointSaverListener(graph.lowering)],
        )
        config = gin.tf.GinConfigSaverHook(
            settings.model_dir, summarize_config=True, include_step_in_filename=False
        )
    return tpu_estimator.TPUEstimatorSpec(
        mode=TRAIN,
        loss=graph.loss,
        train_op=graph.train_op,
        host_call=host_call,
        training_hooks=[restore, save, config],
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
    return tpu_estimator.TPUEstimatorSpec(
        mode=PREDICT,
        predictions=graph.predictions,
        prediction_hooks=[mtf.MtfRestoreHook(graph.lowering)],
    )
