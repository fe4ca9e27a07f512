"""Gradients, loss and sums of one training step, over one or several microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import mtf
from hmoe.mesh import randomness
from hmoe.t5.graphs import batch_features as feature_lib
from hmoe.t5.graphs.call_model import call_model
from hmoe.t5.graphs.cross_entropy import TargetCrossEntropy
from hmoe.t5.graphs.model_settings import TRAIN, ModelSettings
from hmoe.t5.graphs.sums import SumKey, Sums, call_sums
from hmoe.t5.layers import metric_collection


class StepGradients(NamedTuple):
    """What the forward and backward passes of one step compute.

    Attributes:
      gradients: one for each trainable variable of the graph.
      loss: [], everything that is minimised, over the whole step.
      sums: sums over the whole step.
      records: one for each call of an expert layer. Microbatches share one graph, so with several
        of them a record's own sums and loss cannot be read outside it.
      num_microbatches: number of microbatches.
      forward: the operations that were there when the forward pass of a microbatch was built. With
        several microbatches they are in the body of their loop.
    """

    gradients: list[mtf.Tensor]
    loss: mtf.Tensor
    sums: Sums
    records: list[metric_collection.Record]
    num_microbatches: int
    forward: frozenset[mtf.Operation]


class _Forward(NamedTuple):
    """Loss, sums and records of one microbatch, and the operations until then."""

    loss: mtf.Tensor
    sums: Sums
    records: list[metric_collection.Record]
    operations: frozenset[mtf.Operation]


def step_gradients(
    settings: ModelSettings, features: dict[str, mtf.Tensor], batch_dim: mtf.Dimension
) -> StepGradients:
    """Builds forward and backward passes of one step, in as many microbatches as gin asks for.

    Args:
      settings: the model's settings.
      features: int32 [*batch_dims, length] each.
      batch_dim: the dimension along which microbatches are cut.
    """
    num_microbatches = utils.serialize_num_microbatches(
        batch_dim, settings.sequence_length, settings.mesh_shape, settings.layout_rules
    )
    if num_microbatches == 1:
        forward = _forward(settings, features, 1)
        variables = features["targets"].graph.trainable_variables
        gradients = mtf.gradients([forward.loss], [v.outputs[0] for v in variables])
        return _step(gradients, forward.loss, forward.sums, [forward], 1)
    numbered = dict(features)
    numbered[feature_lib.MICROBATCH] = feature_lib.microbatch_feature(
        features["targets"].mesh, batch_dim, num_microbatches
    )
    collected: list[_Forward] = []
    gradients, outputs = mtf.serialize_training_step(
        numbered,
        _microbatch_function(settings, num_microbatches, collected),
        batch_dim,
        num_microbatches,
    )
    loss = outputs.pop("loss")
    return _step(gradients, loss, outputs, collected, num_microbatches)


def _step(
    gradients: list[mtf.Tensor],
    loss: mtf.Tensor,
    sums: Sums,
    forward: list[_Forward],
    num_microbatches: int,
) -> StepGradients:
    """Returns a step of microbatches that are all built like one."""
    last = forward[-1]
    return StepGradients(gradients, loss, sums, last.records, num_microbatches, last.operations)


def _microbatch_function(
    settings: ModelSettings, num_microbatches: int, collected: list[_Forward]
) -> Callable[[dict[str, mtf.Tensor]], dict[str | SumKey, mtf.Tensor]]:
    """Returns a function of a microbatch's features, which adds to `collected` when it is built."""

    def call(features: dict[str, mtf.Tensor]) -> dict[str | SumKey, mtf.Tensor]:
        features = dict(features)
        number = feature_lib.microbatch_number(features.pop(feature_lib.MICROBATCH))
        with randomness.microbatch(number):
            forward = _forward(settings, features, num_microbatches)
        collected.append(forward)
        outputs: dict[str | SumKey, mtf.Tensor] = {"loss": forward.loss}
        for key, value in forward.sums.items():
            outputs[key] = value
        return outputs

    return call


def _forward(
    settings: ModelSettings, features: dict[str, mtf.Tensor], num_microbatches: int
) -> _Forward:
    """Calls the model on one microbatch."""
    call = call_model(settings, features, TRAIN, num_microbatches)
    cross_entropy = TargetCrossEntropy(call.logits, features["targets"])
    sums = call_sums(settings, features, cross_entropy, call.records)
    return _Forward(call.loss, sums, call.records, frozenset(call.loss.graph.operations))
