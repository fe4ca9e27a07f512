"""The same model function under `TPUEstimator`, of the last TensorFlow that had it.

On a TPU the host sees only what a host call sends it: with
`tpu_estimator_model_fn.tpu_summaries = True`, `loss` and `cross_ent_loss` go to TensorBoard
while training. The expert layers' metrics do not leave a TPU; evaluate a checkpoint of the run
without `--tpu` to see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gin.tf
from absl import flags
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.tpu import tpu_config, tpu_estimator

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs import build
from hmoe.t5.graphs.decoding import DecodingGraph
from hmoe.t5.graphs.evaluation import EvaluationGraph
from hmoe.t5.graphs.model_settings import EVAL, PREDICT, SCORE, TRAIN, ModelSettings
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import checkpoints

# Bytes that a host keeps for the compiled program of one replica, by upstream's estimate.
_CACHE_PER_REPLICA = 300 * 1000000


def _let_absl_answer() -> None:
    """Mesh TensorFlow asks absl's flags how chips are laid out; `hmoe` reads its own flags."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def engine(settings: ModelSettings, context: Any) -> mtf.MeshImpl:
    """The mesh on a TPU slice.

    Args:
      settings: of the model.
      context: `params["context"]` of `TPUEstimator`.

    Returns:
      The engine, with the mesh laid onto the cores as upstream lays it.
    """
    _let_absl_answer()
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


def variable_placer(context: Any) -> mtf.utils.BalancedVariablePlacer:
    """Spreads the saved variables over the memory of the hosts."""
    hosts = [context.tpu_host_placement_function(host_id=i) for i in range(context.num_hosts)]
    # The first host keeps the programs of all replicas.
    used = [_CACHE_PER_REPLICA * context.num_replicas] + [0] * (context.num_hosts - 1)
    return mtf.utils.BalancedVariablePlacer(hosts, used)


def estimator(
    settings: ModelSettings,
    cluster: Any,
    tpu_job_name: str | None,
    iterations_per_loop: int,
) -> Any:
    """TensorFlow's `TPUEstimator` of the model.

    Args:
      settings: of the model.
      cluster: of the TPU.
      tpu_job_name: name of its worker job, or None.
      iterations_per_loop: steps between two visits of the host.

    Returns:
      The estimator.

    Raises:
      ValueError: this TensorFlow has none.
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


def model_function(settings: ModelSettings) -> Callable[..., Any]:
    """A model function as `TPUEstimator` calls it."""

    def function(
        features: dict[str, tf.Tensor], labels: Any, mode: str, params: dict, config: Any = None
    ) -> Any:
        del labels, config
        scores = mode == PREDICT and settings.score_in_predict_mode
        context = params.get("context") if settings.use_tpu else None
        on_tpu = (engine(settings, context), variable_placer(context)) if context else ()
        graph = build.build_graph(settings, features, SCORE if scores else mode, *on_tpu)
        if mode == TRAIN:
            return _training_spec(settings, graph)
        if mode == EVAL:
            return _evaluation_spec(graph)
        return _prediction_spec(graph)

    return function


def _training_spec(settings: ModelSettings, graph: TrainingGraph) -> Any:
    host_call = None
    if settings.tpu_summaries:
        host_call = mtf.utils.create_host_call(settings.model_dir)
        mtf.utils.remove_summaries()
    with mtf.utils.outside_all_rewrites():
        checkpoints.start_from(settings)
        restore = mtf.MtfRestoreHook(graph.lowering)
        saver = checkpoints.mesh_saver(settings.keep_checkpoint_max)
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


def _evaluation_spec(graph: EvaluationGraph) -> Any:
    """Sums leave the TPU as vectors, a number for each batch, and are added up on the host."""
    names: list[str] = [name for layer, name in graph.sums if not layer]
    vectors = [tf.reshape(graph.sums[("", name)], [1]) for name in names]

    def numbers(*values: tf.Tensor) -> dict[str, Any]:
        sums = dict(zip(names, values))

        def ratio(part: tf.Tensor, whole: str) -> Any:
            weights = sums[whole]
            return tf.metrics.mean(tf.math.divide_no_nan(part, weights), weights)

        return {
            "cross_ent_loss": ratio(sums["cross_entropy"], "trained_targets"),
            "neg_log_perplexity": ratio(sums["log_likelihood"], "targets"),
            "token_accuracy": ratio(sums["right"], "targets"),
            "sequence_accuracy": ratio(sums["right_rows"], "rows"),
        }

    with mtf.utils.outside_all_rewrites():
        restore = mtf.MtfRestoreHook(graph.lowering)
    of_layers = graph.sums[("", "other_losses")] + graph.sums[("", "expert_losses")]
    loss = tf.math.divide_no_nan(graph.sums[("", "cross_entropy")], graph.sums[("", "denominator")])
    loss += tf.math.divide_no_nan(of_layers, graph.sums[("", "targets")])
    return tpu_estimator.TPUEstimatorSpec(
        mode=EVAL,
        loss=loss,
        eval_metrics=(numbers, vectors),
        evaluation_hooks=[restore],
    )


def _prediction_spec(graph: DecodingGraph) -> Any:
    return tpu_estimator.TPUEstimatorSpec(
        mode=PREDICT,
        predictions=graph.predictions,
        prediction_hooks=[mtf.MtfRestoreHook(graph.lowering)],
    )
