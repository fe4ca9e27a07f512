"""The graph of one training step: gradients over microbatches, the optimizer, exported sums."""

from __future__ import annotations

from typing import NamedTuple

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.lower import lower
from hmoe.t5.graphs import gradients as gradient_lib
from hmoe.t5.graphs import sum_variable
from hmoe.t5.graphs import sums as sum_lib
from hmoe.t5.graphs.model_settings import ModelSettings, learning_rate, trained_variable
from hmoe.t5.graphs.sum_variable import SumVariable
from hmoe.t5.graphs.sums import ExportedSums, SumKey, Sums, model_sum
from hmoe.t5.layers import metric_collection


class StopVote(NamedTuple):
    """A vote on whether training stops after this step, in which each process has a voice.

    Attributes:
      own: float32 [], to be fed with 1 where this process is asked to stop.
      all: float32 [], the sum over all processes.
    """

    own: tf.Tensor
    all: tf.Tensor


class TrainingGraph(NamedTuple):
    """The graph that a session runs a training step with.

    Attributes:
      lowering: the lowered graph.
      loss: float32 [], everything that is minimised.
      train_op: runs the step and increments the global step.
      sums: sums over the step.
      learning_rate: float32 [].
      added_up: the variable that adds up all of these over steps; None if it was not asked for.
      stop: lets any process of a mesh of processes stop all; None on other meshes.
    """

    lowering: mtf.Lowering
    loss: tf.Tensor
    train_op: tf.Operation
    sums: ExportedSums
    learning_rate: tf.Tensor
    added_up: SumVariable | None = None
    stop: StopVote | None = None


def build(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: dict[str, mtf.Tensor],
    batch_dim: mtf.Dimension,
    add_up_sums: bool = False,
) -> TrainingGraph:
    """Builds the graph of one step.

    Args:
      settings: the model's settings.
      engine: the mesh implementation to lower to.
      features: int32 [*batch_dims, length] each.
      batch_dim: the dimension along which microbatches are cut.
      add_up_sums: whether a variable of the mesh adds up the sums over steps.

    Returns:
      The graph.

    Raises:
      ValueError: there is no optimizer, or `variable_filter` leaves no variable to train.
    """
    if settings.optimizer is None:
        raise ValueError(
            "training needs utils.run.optimizer; in gin, for example: "
            "utils.run.optimizer = @optimize.AdafactorOptimizer"
        )
    if isinstance(engine, (mtf.placement_mesh_impl.PlacementMeshImpl, CollectiveMesh)):
        read_weights_once()
    targets = features["targets"]
    step = gradient_lib.step_gradients(settings, features, batch_dim)
    bias_updates = _bias_updates(settings, step.records, step.sums)
    sums = sum_lib.replicated(step.sums)
    if settings.tpu_summaries:
        _add_tpu_summaries(step.loss, sums)
    rate = learning_rate(settings)
    variables, gradients = _trained(settings, targets.graph, step.gradients)
    updates = settings.optimizer(learning_rate=rate).apply_grads(gradients, variables)
    added_up = sum_variable.add_up(targets.mesh, step.loss, rate, sums) if add_up_sums else None
    others = [*bias_updates, *([added_up.add] if added_up else [])]
    lowering = lower(
        targets, engine, autostack=settings.autostack, log_file=settings.model_info_file
    )
    return TrainingGraph(
        lowering=lowering,
        loss=tf.cast(lowering.export_to_tf_tensor(step.loss), tf.float32),
        train_op=_counted([lowering.lowered_operation(op) for op in [*updates, *others]]),
        sums=sum_lib.export(lowering, sums),
        learning_rate=tf.convert_to_tensor(0.0 if rate is None else rate, tf.float32),
        added_up=added_up,
        stop=_stop_vote(engine) if isinstance(engine, CollectiveMesh) else None,
    )


def _stop_vote(engine: CollectiveMesh) -> StopVote:
    own = tf.placeholder_with_default(0.0, [])
    voices = engine.LaidOutTensor([own])
    return StopVote(own, engine.allreduce(voices, range(engine.ndims), "SUM").one_slice)


def read_weights_once() -> None:
    """Lets all later uses of a variable in the default graph share one read of it per step.

    Mesh TensorFlow passes on the variable itself, so that the forward and the backward pass would
    each read it. Since the gradient of a last layer's weights does not need their value, the
    optimizer may assign them before the backward pass of the layer below reads them.
    """
    tf.get_variable_scope().set_caching_device(lambda op: op.inputs[0].device)


def _add_tpu_summaries(loss: mtf.Tensor, sums: Sums) -> None:
    """Adds the summaries that the host call of a TPU reads; nothing else collects them."""
    mtf.scalar_summary("loss", loss)
    targets = mtf.maximum(sums[model_sum("trained_targets")], 1.0)
    mtf.scalar_summary("cross_ent_loss", sums[model_sum("cross_entropy")] / targets)


def _bias_updates(
    settings: ModelSettings, records: list[metric_collection.Record], sums: Sums
) -> list[mtf.Operation]:
    """Updates the balancing biases once per step, by the load over all its microbatches.

    A bias that `variable_filter` excludes is left as it is.
    """
    is_trained = trained_variable(settings)
    return [
        update.apply(sums[SumKey(record.name, update.load_name)])
        for record in records
        for update in record.bias_updates
        if is_trained(update.bias.operation)
    ]


def _trained(
    settings: ModelSettings, graph: mtf.Graph, gradients: list[mtf.Tensor]
) -> tuple[list[mtf.Variable], list[mtf.Tensor]]:
    """Returns the variables that `variable_filter` selects, and their gradients."""
    is_trained = trained_variable(settings)
    pairs = [(v, g) for v, g in zip(graph.trainable_variables, gradients) if is_trained(v)]
    if not pairs:
        raise ValueError(
            f"utils.run.variable_filter = {settings.variable_filter!r} leaves none of the "
            f"{len(gradients)} variables to train; the first is {graph.trainable_variables[0].name}"
        )
    variables, kept = zip(*pairs)
    return list(variables), list(kept)


def _counted(updates: list[tf.Operation]) -> tf.Operation:
    """Increments the global step after the updates, some of which read it."""
    with tf.control_dependencies(updates):
        return tf.assign_add(tf.train.get_global_step(), 1).op
