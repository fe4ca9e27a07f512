"""The graph that evaluates a batch by teacher forcing: sums only, which add up over batches."""

from __future__ import annotations

from typing import NamedTuple

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.lower import lower
from hmoe.t5.graphs import call_model
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.training import ExportedSums, export_sums


class EvaluationGraph(NamedTuple):
    """What a session needs to evaluate a batch.

    Attributes:
      lowering: of the named-dimension graph.
      sums: of the batch, by (layer, name).
    """

    lowering: mtf.Lowering
    sums: ExportedSums


def build(
    settings: ModelSettings, engine: mtf.MeshImpl, features: dict[str, mtf.Tensor]
) -> EvaluationGraph:
    """Builds the graph for one batch; rows that are all padding fill up the last one.

    Args:
      settings: of the model.
      engine: the mesh to lower to.
      features: int32 [*batch_dims, length] each.

    Returns:
      The graph. Its model-wide sums are those of `forward.call_sums`, and:
      ("", "denominator"): what T5's loss divides the cross entropy by, of rows with a target.
      ("", "other_losses"): losses of layers that are not ours, times the number of targets.
      ("", "expert_losses"): losses of those that are ours, times the same.
      ("", "log_likelihood"), ("", "targets"), ("", "right"), ("", "ids"): log likelihood in
      nats, number, number predicted right, and sum of ids of targets that count.
      ("", "rows"), ("", "right_rows"): rows with a target, and those of them all right.
    """
    targets = features["targets"]
    logits, loss, records = call_model.call_model(settings, features, "eval")
    sums = call_model.call_sums(settings, features, logits, records)
    given_too = settings.model_type != "delimited_lm"
    sums.update(_target_sums(logits, targets, call_model.target_weights(targets, given_too)))
    denominator = settings.decoder.loss_denominator(targets, 1)
    of_experts = mtf.add_n([record.loss for record in records]) if records else 0.0 * loss
    of_experts = mtf.cast(of_experts, tf.float32)
    others = mtf.cast(loss, tf.float32) - sums[("", "cross_entropy")] / denominator - of_experts
    # Rows that only fill up the batch must not thin out the loss.
    share = sums[("", "rows")] / (targets.shape.size / targets.shape.dims[-1].size)
    sums[("", "denominator")] = share * denominator
    sums[("", "other_losses")] = others * sums[("", "targets")]
    sums[("", "expert_losses")] = of_experts * sums[("", "targets")]
    sums = call_model.unsplit(sums)
    lowering = lower(targets, engine, autostack=settings.autostack)
    return EvaluationGraph(lowering, export_sums(lowering, sums))


def _target_sums(
    logits: mtf.Tensor, targets: mtf.Tensor, weights: mtf.Tensor
) -> dict[call_model.SumKey, mtf.Tensor]:
    length, vocab = targets.shape.dims[-1], logits.shape.dims[-1]
    predictions = mtf.cast(mtf.argmax(logits, vocab), targets.dtype)
    right = mtf.to_float(mtf.equal(predictions, targets)) * weights
    row_weights = mtf.reduce_sum(weights, reduced_dim=length)
    row_right = mtf.reduce_sum(right, reduced_dim=length)
    has_target = mtf.to_float(mtf.greater(row_weights, 0.0))
    all_right = mtf.to_float(mtf.equal(row_weights, row_right)) * has_target
    sums = {
        "log_likelihood": -call_model.target_losses(logits, targets, weights).cross_entropy,
        "targets": weights,
        "right": right,
        "ids": mtf.to_float(targets) * weights,
        "rows": has_target,
        "right_rows": all_right,
    }
    return {("", name): mtf.reduce_sum(value) for name, value in sums.items()}
