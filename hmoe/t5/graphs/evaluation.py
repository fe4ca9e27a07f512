"""The graph that evaluates a batch by teacher forcing, as sums that add up over batches."""

from __future__ import annotations

from typing import NamedTuple

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.lower import lower
from hmoe.t5.graphs import sums as sum_lib
from hmoe.t5.graphs.call_model import ModelCall, call_model
from hmoe.t5.graphs.cross_entropy import TargetCrossEntropy, target_weights
from hmoe.t5.graphs.model_settings import EVAL, ModelSettings
from hmoe.t5.graphs.sums import ExportedSums, Sums, model_sum


class EvaluationGraph(NamedTuple):
    """The graph that a session evaluates a batch with.

    Attributes:
      lowering: the lowered graph.
      sums: sums over the batch.
    """

    lowering: mtf.Lowering
    sums: ExportedSums

    @property
    def fetched(self) -> list[tf.Tensor]:
        """All that a session runs of the graph."""
        return list(self.sums.values())


def build(
    settings: ModelSettings, engine: mtf.MeshImpl, features: dict[str, mtf.Tensor]
) -> EvaluationGraph:
    """Builds the graph for one batch, whose last rows may be padding alone.

    Args:
      settings: the model's settings.
      engine: the mesh implementation to lower to.
      features: int32 [*batch_dims, length] each.

    Returns:
      The graph. Its sums are those of `sums.call_sums` and, under `model_sum` of a name:
        "denominator": what T5's loss divides the cross entropy by, for rows with a target.
        "other_losses": losses of layers that are not hmoe's, times the number of targets.
        "expert_losses": losses of hmoe's layers, times the number of targets.
        "log_likelihood": log likelihood of the targets that count, in nats.
        "targets": number of targets that count.
        "right": number of those that are predicted right.
        "ids": sum of their ids.
        "rows": number of rows with a target.
        "right_rows": number of rows with a target whose targets are all predicted right.
    """
    targets = features["targets"]
    call = call_model(settings, features, EVAL)
    cross_entropy = TargetCrossEntropy(call.logits, targets)
    sums = sum_lib.call_sums(settings, features, cross_entropy, call.records)
    weights = target_weights(targets, with_given_part=settings.model_type != "delimited_lm")
    sums[model_sum("log_likelihood")] = mtf.reduce_sum(-cross_entropy.losses(weights).cross_entropy)
    sums.update(_accuracy_sums(call.logits, targets, weights))
    sums.update(_loss_sums(settings, call, targets, sums))
    sums = sum_lib.replicated(sums)
    lowering = lower(targets, engine, autostack=settings.autostack)
    return EvaluationGraph(lowering, sum_lib.export(lowering, sums))


def _loss_sums(settings: ModelSettings, call: ModelCall, targets: mtf.Tensor, sums: Sums) -> Sums:
    """Separates the losses of layers from the cross entropy in T5's own loss."""
    loss, records = call.loss, call.records
    denominator = settings.decoder.loss_denominator(targets, 1)
    of_experts = mtf.add_n([record.loss for record in records]) if records else 0.0 * loss
    of_experts = mtf.cast(of_experts, tf.float32)
    cross_entropy = sums[model_sum("cross_entropy")]
    others = mtf.cast(loss, tf.float32) - cross_entropy / denominator - of_experts
    # Rows of padding that fill up the last batch must not dilute the loss.
    num_rows = targets.shape.size / targets.shape.dims[-1].size
    return {
        model_sum("denominator"): sums[model_sum("rows")] / num_rows * denominator,
        model_sum("other_losses"): others * sums[model_sum("targets")],
        model_sum("expert_losses"): of_experts * sums[model_sum("targets")],
    }


def _accuracy_sums(logits: mtf.Tensor, targets: mtf.Tensor, weights: mtf.Tensor) -> Sums:
    """Counts targets and rows, and those that are predicted right."""
    length, vocab = targets.shape.dims[-1], logits.shape.dims[-1]
    predictions = mtf.cast(mtf.argmax(logits, vocab), targets.dtype)
    right = mtf.to_float(mtf.equal(predictions, targets)) * weights
    # [*batch_dims, length] -> [*batch_dims]
    row_weights = mtf.reduce_sum(weights, reduced_dim=length)
    row_right = mtf.reduce_sum(right, reduced_dim=length)
    has_target = mtf.to_float(mtf.greater(row_weights, 0.0))
    all_right = mtf.to_float(mtf.equal(row_weights, row_right)) * has_target
    sums = {
        "targets": weights,
        "right": right,
        "ids": mtf.to_float(targets) * weights,
        "rows": has_target,
        "right_rows": all_right,
    }
    return {model_sum(name): mtf.reduce_sum(value) for name, value in sums.items()}
