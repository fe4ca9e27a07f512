"""The graph of one training step, lowered onto a mesh, with what a session fetches of it."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import NamedTuple

from hmoe.compat.stack import mtf, tf
from hmoe.layer.level_states import Routers
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.lower import lower
from hmoe.t5.graphs import named_step
from hmoe.t5.graphs import sums as sum_lib
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.sum_variable import SumVariable
from hmoe.t5.graphs.sums import ExportedSums
from hmoe.t5.layers.metric_collection import Record


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
      routers: the routers of the layers with experts, but those whose choices are a trace's.
    """

    lowering: mtf.Lowering
    loss: tf.Tensor
    train_op: tf.Operation
    sums: ExportedSums
    learning_rate: tf.Tensor
    added_up: SumVariable | None = None
    stop: StopVote | None = None
    routers: Routers = types.MappingProxyType({})

    @property
    def fetched(self) -> list[tf.Tensor | tf.Operation]:
        """All that a session runs of the graph."""
        votes = [self.stop.all] if self.stop else []
        return [self.train_op, self.loss, self.learning_rate, *self.sums.values(), *votes]


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
    if isinstance(engine, (mtf.placement_mesh_impl.PlacementMeshImpl, CollectiveMesh)):
        read_weights_once()
    step = named_step.build(settings, features, batch_dim, add_up_sums)
    lowering = lower(
        step.loss, engine, autostack=settings.autostack, log_file=settings.model_info_file
    )
    added_up, rate = step.added_up, step.learning_rate
    updates = [*step.updates, *step.bias_updates, *([added_up.add] if added_up else [])]
    return TrainingGraph(
        lowering=lowering,
        loss=tf.cast(lowering.export_to_tf_tensor(step.loss), tf.float32),
        train_op=_counted([lowering.lowered_operation(op) for op in updates]),
        sums=sum_lib.export(lowering, step.sums),
        learning_rate=tf.convert_to_tensor(0.0 if rate is None else rate, tf.float32),
        added_up=added_up,
        stop=_stop_vote(engine) if isinstance(engine, CollectiveMesh) else None,
        routers=_routers(step.records),
    )


def _routers(records: Sequence[Record]) -> Routers:
    return {
        record.name: {
            routed.level.name: routed.level.router
            for routed in record.call.routed
            if routed.batch.replay is None
        }
        for record in records
        if record.call is not None
    }


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
    # The device of the variable itself: TensorFlow reads outside all other devices, so without one
    # each weight on another server would go to the first of them and back in every step.
    tf.get_variable_scope().set_caching_device(lambda op: op.inputs[0].device)


def _counted(updates: list[tf.Operation]) -> tf.Operation:
    """Increments the global step after the updates, some of which read it."""
    with tf.control_dependencies(updates):
        return tf.assign_add(tf.train.get_global_step(), 1).op
