"""The named-dimension graph of one training step, before it is lowered onto a mesh.

Training lowers it; a plan of what a step costs walks it as it is.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from hmoe import compat
from hmoe.compat.stack import mtf, tf
from hmoe.plan import counting
from hmoe.t5.graphs import batch_features as feature_lib
from hmoe.t5.graphs import gradients as gradient_lib
from hmoe.t5.graphs import sum_variable
from hmoe.t5.graphs import sums as sum_lib
from hmoe.t5.graphs.model_settings import TRAIN, ModelSettings, learning_rate, trained_variable
from hmoe.t5.graphs.sum_variable import SumVariable
from hmoe.t5.graphs.sums import SumKey, Sums, model_sum
from hmoe.t5.layers import metric_collection

# The phases of a step.
Phase: TypeAlias = Literal["forward", "backward", "update"]
FORWARD: Final = "forward"
BACKWARD: Final = "backward"
UPDATE: Final = "update"


@dataclasses.dataclass(frozen=True)
class NamedStep:
    """The graph of a step, with what leaves it.

    Attributes:
      graph: the graph.
      loss: [], everything that is minimised, over the whole step.
      gradients: of each variable that is trained.
      updates: assign the weights and the optimizer's variables.
      bias_updates: move the routers' balancing biases.
      sums: sums over the step. They and the loss leave the mesh, so that each device has them.
      learning_rate: the learning rate: a number, or a tensor that follows the global step.
      added_up: the variable that adds up loss, learning rate and sums over steps; None without one.
      num_microbatches: number of microbatches. Several share the body of one `WhileLoopOperation`
        of the graph, which each device runs that many times.
      records: one for each call of an expert layer.
      forward: the operations of the forward pass of a microbatch, and those before it. With several
        microbatches they are the variables, and what the body of the loop begins with.
      first_backward: number of operations of the graph before the backward pass; with several
        microbatches, before their loop, which has both passes.
      first_update: number of operations of the graph before those that follow both passes: bias
        updates, sums over all devices, and the optimizer's.
      tf_graph: TensorFlow's graph, which has the features; and the variables, if it is to be run.
    """

    graph: mtf.Graph
    loss: mtf.Tensor
    gradients: Mapping[mtf.Variable, mtf.Tensor]
    updates: Sequence[mtf.Operation]
    bias_updates: Sequence[mtf.Operation]
    sums: Sums
    learning_rate: float | tf.Tensor | None
    added_up: SumVariable | None
    num_microbatches: int
    records: Sequence[metric_collection.Record]
    forward: frozenset[mtf.Operation]
    first_backward: int
    first_update: int
    tf_graph: tf.Graph

    def phase(self, operation: mtf.Operation) -> Phase:
        """Returns the phase of an operation of the graph, or of the body of its loop.

        The loop itself is of the backward pass: what devices do together at its end, after the last
        microbatch, is to add up gradients.
        """
        if operation in self.forward:
            return FORWARD
        return UPDATE if operation in self._after_passes else BACKWARD

    @functools.cached_property
    def counted(self) -> counting.Step:
        """The step, prepared to be counted."""
        return counting.Step(
            self.graph,
            exported=[self.loss, *self.sums.values()],
            gradients=list(self.gradients.values()),
            iterations=self.num_microbatches,
        )

    @functools.cached_property
    def _after_passes(self) -> frozenset[mtf.Operation]:
        return frozenset(self.graph.operations[self.first_update :])


def named_step(settings: ModelSettings, *, on_tpu: bool, packed: bool = True) -> NamedStep:
    """Builds the graph of a step that nobody runs: without data, and without saved variables.

    It is built into a graph of TensorFlow of its own, and reads what gin binds to the layers.

    Args:
      settings: the model's settings.
      on_tpu: whether it is the graph that a TPU would run, which adds up its sums by itself.
      packed: whether a sequence may hold several examples.

    Returns:
      The step.

    Raises:
      ValueError: sizes, mesh and layout do not suit each other, there is no optimizer, or
        `variable_filter` leaves no variable to train.
    """
    with tf.Graph().as_default():
        compat.use_resource_variables()
        tf.train.create_global_step()
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=_name_alone):
            mesh = mtf.Mesh(mtf.Graph(), "mesh")
            dims = feature_lib.batch_dims(settings, with_outer_batch=True)
            features = placeholders(settings, packed)
            named = feature_lib.import_features(settings, mesh, features, dims)
            named = feature_lib.joined_for_lm(settings, TRAIN, named)
            return build(settings, named, dims[-1], add_up_sums=on_tpu)


def _name_alone(
    getter: Callable[..., tf.Variable], name: str, **unused: object
) -> types.SimpleNamespace:
    """Stands for a variable of TensorFlow; to make those of a large model takes seconds."""
    del getter
    return types.SimpleNamespace(name=f"{name}:0")


def placeholders(settings: ModelSettings, packed: bool) -> dict[str, tf.Tensor]:
    """Returns int32 [rows, length] for each feature that a model of the type reads."""
    names = ["targets"] if settings.model_type == "lm" else ["inputs", "targets"]
    if packed:
        names += [f"{name}_{what}" for name in names for what in ("segmentation", "position")]
    rows = settings.batch_size * (settings.ensemble_inputs or 1)
    return {
        name: tf.placeholder(tf.int32, [rows, feature_lib.text_length(settings, name)])
        for name in names
    }


def build(
    settings: ModelSettings,
    features: dict[str, mtf.Tensor],
    batch_dim: mtf.Dimension,
    add_up_sums: bool = False,
) -> NamedStep:
    """Builds the graph of a step: both passes, the optimizer's updates, and sums.

    Args:
      settings: the model's settings.
      features: int32 [*batch_dims, length] each.
      batch_dim: the dimension along which microbatches are cut.
      add_up_sums: whether a variable of the mesh adds up the sums over steps.

    Returns:
      The step.

    Raises:
      ValueError: there is no optimizer, or `variable_filter` leaves no variable to train.
    """
    if settings.optimizer is None:
        raise ValueError(
            "training needs utils.run.optimizer; in gin, for example: "
            "utils.run.optimizer = @optimize.AdafactorOptimizer"
        )
    targets = features["targets"]
    step = gradient_lib.step_gradients(settings, features, batch_dim)
    first_update = len(targets.graph.operations)
    bias_updates = _bias_updates(settings, step.records, step.sums)
    sums = sum_lib.replicated(step.sums)
    if settings.tpu_summaries:
        _add_tpu_summaries(step.loss, sums)
    rate = learning_rate(settings)
    gradients = _trained(settings, targets.graph, step.gradients)
    optimizer = settings.optimizer(learning_rate=rate)
    updates = optimizer.apply_grads(list(gradients.values()), list(gradients))
    added_up = sum_variable.add_up(targets.mesh, step.loss, rate, sums) if add_up_sums else None
    return NamedStep(
        graph=targets.graph,
        loss=step.loss,
        gradients=gradients,
        updates=updates,
        bias_updates=bias_updates,
        sums=sums,
        learning_rate=rate,
        added_up=added_up,
        num_microbatches=step.num_microbatches,
        records=step.records,
        forward=step.forward,
        first_backward=sum(each in step.forward for each in targets.graph.operations),
        first_update=first_update,
        tf_graph=tf.get_default_graph(),
    )


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
) -> dict[mtf.Variable, mtf.Tensor]:
    """Returns the gradients of the variables that `variable_filter` selects."""
    is_trained = trained_variable(settings)
    found = {v: g for v, g in zip(graph.trainable_variables, gradients) if is_trained(v)}
    if not found:
        raise ValueError(
            f"utils.run.variable_filter = {settings.variable_filter!r} leaves none of the "
            f"{len(gradients)} variables to train; the first is {graph.trainable_variables[0].name}"
        )
    return found
