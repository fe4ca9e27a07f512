"""Calls the model, and gathers what is to be known of the call as sums.

A sum is keyed by (layer, name); the layer is "" for what concerns the model as a whole. Sums add
up over microbatches, steps and batches; `hmoe.t5.sessions.run_metrics` turns them into numbers.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from mesh_tensorflow.transformer import transformer

from hmoe.compat.stack import mtf, tf
from hmoe.mesh import randomness
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.layers import metric_collection

SumKey = tuple[str, str]
Sums = dict[SumKey, mtf.Tensor]


def call_model(
    settings: ModelSettings,
    features: dict[str, mtf.Tensor],
    mode: str,
    num_microbatches: int = 1,
    compute_loss: bool = True,
) -> tuple[mtf.Tensor, mtf.Tensor, list[Any]]:
    """Calls the transformer on whole sequences.

    Args:
      settings: of the model.
      features: int32 [*batch_dims, length] each.
      mode: "train", "eval" or "score".
      num_microbatches: parts of the step, of which this call is one.
      compute_loss: whether the loss is wanted.

    Returns:
      Logits [*batch_dims, length, vocab], the loss [] or None, and the layers' records.
    """
    model = settings.transformer_model
    targets = features["targets"]
    inputs = features.get("inputs")
    if isinstance(model, transformer.Unitransformer) and settings.model_type != "aligned":
        inputs = transformer.autoregressive_inputs(
            targets, sequence_id=features.get("targets_segmentation")
        )
    with _layout_independent(mode), metric_collection.collecting() as records:
        logits, loss = model.call_simple(
            inputs=inputs,
            targets=targets,
            compute_loss=compute_loss,
            mode=mode,
            variable_dtype=settings.variable_dtype,
            num_microbatches=num_microbatches,
            **_positions(model, features),
        )
    return logits, loss, list(records)


def _layout_independent(mode: str) -> AbstractContextManager:
    if mode == "train":
        return randomness.layout_independent_dropout()
    return contextlib.nullcontext()


def _positions(model: Any, features: dict[str, mtf.Tensor]) -> dict[str, mtf.Tensor]:
    """Segments and positions of packed data, by the names of the model's arguments."""
    if isinstance(model, transformer.Unitransformer):
        names = {"sequence_id": "targets_segmentation", "position": "targets_position"}
    else:
        names = {
            "encoder_sequence_id": "inputs_segmentation",
            "decoder_sequence_id": "targets_segmentation",
            "decoder_subsequence_id": "targets_subsegmentation",
            "encoder_position": "inputs_position",
            "decoder_position": "targets_position",
        }
    given = {argument: features[name] for argument, name in names.items() if name in features}
    if getattr(model, "autoregressive", False) and "sequence_id" not in given:
        # T5 gives unpacked language models no padding mask; experts are not to serve padding.
        given["sequence_id"] = mtf.minimum(features["targets"], 1)
    return given


def target_weights(targets: mtf.Tensor, given_too: bool = True) -> mtf.Tensor:
    """1.0 where a target counts and 0.0 elsewhere.

    Args:
      targets: int32 [*batch_dims, length]; 0 is padding, negative ids are not to be scored.
      given_too: whether the inputs' part of a joined sequence counts as well.

    Returns:
      float32 of the shape of `targets`.
    """
    weights = mtf.cast(mtf.greater(targets, 0), tf.float32)
    if given_too:
        return weights
    given = transformer.delimited_lm_inputs_mask(targets)
    return weights * mtf.cast(mtf.logical_not(given), tf.float32)


class TargetLosses(NamedTuple):
    """Losses of each target.

    Attributes:
      cross_entropy: float32 [*batch_dims, length], in nats, 0 where the weight is.
      below_zero: float32 [*batch_dims, length], how far it is below 0 where rounding cannot
        explain it. No probability is above 1, so this is 0 unless a sum over the mesh is wrong.
    """

    cross_entropy: mtf.Tensor
    below_zero: mtf.Tensor


def target_losses(
    logits: mtf.Tensor, targets: mtf.Tensor, weights: mtf.Tensor, label_smoothing: float = 0.0
) -> TargetLosses:
    """Cross entropy of each target without the output z-loss.

    Args:
      logits: [*batch_dims, length, vocab].
      targets: int32 [*batch_dims, length].
      weights: float32 [*batch_dims, length], of `target_weights`.
      label_smoothing: share of the probability spread over the whole vocabulary.
    """
    logits = mtf.cast(logits, tf.float32)
    vocab = logits.shape.dims[-1]
    rest = label_smoothing / vocab.size
    wanted = mtf.one_hot(
        mtf.maximum(targets, 0),
        vocab,
        dtype=tf.float32,
        on_value=1.0 - label_smoothing + rest,
        off_value=rest,
    )
    score = mtf.reduce_sum(logits * wanted, reduced_dim=vocab)
    log_z = mtf.reduce_logsumexp(logits, vocab)
    losses = (log_z - score) * weights
    # A small cross entropy is the difference of two numbers that may be large.
    return TargetLosses(losses, mtf.relu(-losses - (mtf.abs(log_z) * 1e-5 + 1e-3)))


def call_sums(
    settings: ModelSettings,
    features: dict[str, mtf.Tensor],
    logits: mtf.Tensor,
    records: list[Any],
) -> Sums:
    """Sums of one call: cross entropy, token counts, and what the layers recorded.

    Returns:
      ("", "cross_entropy"): sum over targets, with the label smoothing of training.
      ("", "trained_targets"): the targets that this is the sum over.
      ("", "below_zero"): see `TargetLosses`, sum over targets.
      ("", "tokens"): tokens that are not padding, of inputs and targets.
      (layer, name): the layers' own.
    """
    targets = features["targets"]
    smoothing = settings.decoder.label_smoothing
    weights = target_weights(targets, given_too=not settings.decoder.loss_on_targets_only)
    losses = target_losses(logits, targets, weights, smoothing)
    tokens = [_count(features[name]) for name in ("inputs", "targets") if name in features]
    sums = {
        ("", "cross_entropy"): mtf.reduce_sum(losses.cross_entropy),
        ("", "trained_targets"): mtf.reduce_sum(weights),
        ("", "below_zero"): mtf.reduce_sum(losses.below_zero),
        ("", "tokens"): mtf.add_n(tokens),
    }
    for record in records:
        for name, value in record.sums.items():
            key = (record.name, name)
            sums[key] = sums[key] + value if key in sums else value
    return sums


def _count(ids: mtf.Tensor) -> mtf.Tensor:
    return mtf.reduce_sum(mtf.to_float(mtf.not_equal(ids, 0)))


def unsplit(sums: Sums) -> Sums:
    """The same sums, whole on every device, so that they can leave the mesh."""
    return {key: mtf.anonymize(value) if value.shape.dims else value for key, value in sums.items()}
