"""The graph of one training step: gradients over microbatches, optimizer, and exported sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.lower import lower
from hmoe.mesh import randomness
from hmoe.t5.graphs import batch_features as feature_lib
from hmoe.t5.graphs import call_model
from hmoe.t5.graphs.model_settings import ModelSettings, learning_rate, trained_variable
from hmoe.t5.layers import metric_collection

ExportedSums = dict[call_model.SumKey, tf.Tensor]


class TrainingGraph(NamedTuple):
    """What a session needs of a training step.

    Attributes:
      lowering: of the named-dimension graph.
      loss: float32 [], with all that is trained on.
      train_op: runs the step and counts it.
      sums: of the step, by (layer, name).
      learning_rate: float32 [].
    """

    lowering: mtf.Lowering
    loss: tf.Tensor
    train_op: tf.Operation
    sums: ExportedSums
    learning_rate: tf.Tensor


def build(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: dict[str, mtf.Tensor],
    batch_dim: mtf.Dimension,
) -> TrainingGraph:
    """Builds the graph of one step.

    Args:
      settings: of the model.
      engine: the mesh to lower to.
      features: int32 [*batch_dims, length] each.
      batch_dim: the dimension that microbatches cut.

    Returns:
      The graph.

    Raises:
      ValueError: no optimizer, or a filter that leaves no variable to train.
    """
    if settings.optimizer is None:
        raise ValueError(
            "training needs utils.run.optimizer; in gin, for example: "
            "utils.run.optimizer = @optimize.AdafactorOptimizer"
        )
    if isinstance(engine, mtf.placement_mesh_impl.PlacementMeshImpl):
        read_weights_once()
    targets = features["targets"]
    gradients, loss, sums, records = _gradients(settings, features, batch_dim)
    bias_updates = _bias_updates(settings, records, sums)
    sums = call_model.unsplit(sums)
    if settings.tpu_summaries:
        # Read by the host call of `tpu`; nothing else collects them.
        mtf.scalar_summary("loss", loss)
        mtf.scalar_summary(
            "cross_ent_loss",
            sums[("", "cross_entropy")] / mtf.maximum(sums[("", "trained_targets")], 1.0),
        )
    rate = learning_rate(settings)
    variables, gradients = _trained(settings, targets.graph, gradients)
    optimizer = settings.optimizer(learning_rate=rate)
    updates = optimizer.apply_grads(gradients, variables)
    lowering = lower(
        targets, engine, autostack=settings.autostack, log_file=settings.model_info_file
    )
    return TrainingGraph(
        lowering=lowering,
        loss=tf.cast(lowering.export_to_tf_tensor(loss), tf.float32),
        train_op=_counted([lowering.lowered_operation(op) for op in [*updates, *bias_updates]]),
        sums=export_sums(lowering, sums),
        learning_rate=tf.convert_to_tensor(0.0 if rate is None else rate, tf.float32),
    )


def read_weights_once() -> None:
    """From here on in the default graph, all uses of a variable share one read of it in a step.

    Mesh TensorFlow hands on the variable itself, so that forward and backward pass would each read
    it; and since the gradient of a last layer's weights does not need their value, the optimizer
    may assign them before the backward pass of the layer below reads them.
    """
    tf.get_variable_scope().set_caching_device(lambda op: op.device)


def _gradients(
    settings: ModelSettings, features: dict[str, mtf.Tensor], batch_dim: mtf.Dimension
) -> tuple[list[mtf.Tensor], mtf.Tensor, call_model.Sums, list[metric_collection.Record]]:
    """Gradients of all trainable variables, loss and sums of the whole step; layers' records."""
    mesh = features["targets"].mesh
    num_microbatches = utils.serialize_num_microbatches(
        batch_dim, settings.sequence_length, settings.mesh_shape, settings.layout_rules
    )
    if num_microbatches == 1:
        loss, sums, called = _call(settings, features, 1)
        variables = features["targets"].graph.trainable_variables
        return mtf.gradients([loss], [v.outputs[0] for v in variables]), loss, sums, called
    numbered = dict(features)
    numbered[feature_lib.MICROBATCH] = feature_lib.microbatch_feature(
        mesh, batch_dim, num_microbatches
    )
    records: list[metric_collection.Record] = []
    gradients, outputs = mtf.serialize_training_step(
        numbered,
        _microbatch_function(settings, num_microbatches, records),
        batch_dim,
        num_microbatches,
    )
    loss = outputs.pop("loss")
    return gradients, loss, outputs, records


def _microbatch_function(
    settings: ModelSettings, num_microbatches: int, records: list[metric_collection.Record]
) -> Callable[[dict[str, mtf.Tensor]], dict]:
    """A function of a microbatch's features; built once, it leaves the layers' records."""

    def call(features: dict[str, mtf.Tensor]) -> dict:
        features = dict(features)
        number = feature_lib.microbatch_number(features.pop(feature_lib.MICROBATCH))
        with randomness.microbatch(number):
            loss, sums, of_layers = _call(settings, features, num_microbatches)
        records[:] = of_layers
        return {"loss": loss, **sums}

    return call


def _call(
    settings: ModelSettings, features: dict[str, mtf.Tensor], num_microbatches: int
) -> tuple[mtf.Tensor, call_model.Sums, list[metric_collection.Record]]:
    logits, loss, records = call_model.call_model(settings, features, "train", num_microbatches)
    sums = call_model.call_sums(settings, features, logits, records)
    return loss, sums, records


def _bias_updates(
    settings: ModelSettings, records: list[metric_collection.Record], sums: call_model.Sums
) -> list[mtf.Operation]:
    """Moves the balancing biases once a step, by the load of all its microbatches.

    Those of variables that `variable_filter` keeps as they are rest.
    """
    wanted = trained_variable(settings)
    return [
        update.apply(sums[(record.name, update.load_name)])
        for record in records
        for update in record.bias_updates
        if wanted(update.bias.operation)
    ]


def _trained(
    settings: ModelSettings, graph: mtf.Graph, gradients: list[mtf.Tensor]
) -> tuple[list[mtf.Variable], list[mtf.Tensor]]:
    """The variables that `variable_filter` lets through, and their gradients."""
    wanted = trained_variable(settings)
    pairs = [(v, g) for v, g in zip(graph.trainable_variables, gradients) if wanted(v)]
    if not pairs:
        raise ValueError(
            f"utils.run.variable_filter = {settings.variable_filter!r} leaves none of the "
            f"{len(gradients)} variables to train; the first is {graph.trainable_variables[0].name}"
        )
    variables, kept = zip(*pairs)
    return list(variables), list(kept)


def _counted(updates: list[tf.Operation]) -> tf.Operation:
    """Counts the step after its updates, some of which read the step's number."""
    with tf.control_dependencies(updates):
        return tf.assign_add(tf.train.get_global_step(), 1).op


def export_sums(lowering: mtf.Lowering, sums: call_model.Sums) -> ExportedSums:
    """Whole tensors float32 from sums that `forward.unsplit` returned before the lowering."""
    return {
        key: tf.cast(lowering.export_to_tf_tensor(value), tf.float32) for key, value in sums.items()
    }
