"""Sums over a batch that add up over microbatches, steps and batches.

Everything that is reported about a model leaves its graph as a sum or a count, so that results do
not depend on how the data was cut. `hmoe.t5.sessions.run_metrics` divides once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs.cross_entropy import TargetCrossEntropy, target_weights
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.layers.metric_collection import Record


class SumKey(NamedTuple):
    """Identifies a sum.

    Attributes:
      layer: name of the layer that recorded it; "" for a sum over the whole model.
      name: what was summed.
    """

    layer: str
    name: str


Sums = dict[SumKey, mtf.Tensor]
ExportedSums = dict[SumKey, tf.Tensor]


def model_sum(name: str) -> SumKey:
    """Returns the key of a sum over the whole model."""
    return SumKey("", name)


def call_sums(
    settings: ModelSettings,
    features: dict[str, mtf.Tensor],
    cross_entropy: TargetCrossEntropy,
    records: Sequence[Record],
) -> Sums:
    """Sums the cross entropy, the tokens, and the layers' metrics of one call of the model.

    Returns:
      Under `model_sum` of a name:
        "cross_entropy": sum over targets, with the label smoothing of training.
        "trained_targets": number of targets in that sum.
        "below_zero": sum of `TargetLosses.below_zero` over targets.
        "tokens": tokens of inputs and targets that are not padding.
      Under the name of a layer: the sums that the layer recorded.
    """
    targets = features["targets"]
    weights = target_weights(targets, with_given_part=not settings.decoder.loss_on_targets_only)
    losses = cross_entropy.losses(weights, settings.decoder.label_smoothing)
    tokens = [_num_tokens(features[name]) for name in ("inputs", "targets") if name in features]
    sums = {
        model_sum("cross_entropy"): mtf.reduce_sum(losses.cross_entropy),
        model_sum("trained_targets"): mtf.reduce_sum(weights),
        model_sum("below_zero"): mtf.reduce_sum(losses.below_zero),
        model_sum("tokens"): mtf.add_n(tokens),
    }
    for record in records:
        for name, value in record.sums.items():
            key = SumKey(record.name, name)
            sums[key] = sums[key] + value if key in sums else value
    return sums


def _num_tokens(ids: mtf.Tensor) -> mtf.Tensor:
    return mtf.reduce_sum(mtf.to_float(mtf.not_equal(ids, 0)))


def replicated(sums: Sums) -> Sums:
    """Replicates sums on every device, so that they can leave the mesh."""
    return {key: mtf.anonymize(value) if value.shape.dims else value for key, value in sums.items()}


def export(lowering: mtf.Lowering, sums: Sums) -> ExportedSums:
    """Exports as float32 the sums that `replicated` returned before the lowering."""
    return {
        key: tf.cast(lowering.export_to_tf_tensor(value), tf.float32) for key, value in sums.items()
    }
