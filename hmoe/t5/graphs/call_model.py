"""Calls the transformer on whole sequences and collects what its expert layers recorded."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import NamedTuple

from mesh_tensorflow.transformer import transformer

from hmoe.compat.stack import mtf
from hmoe.mesh import randomness
from hmoe.t5.graphs import batch_features
from hmoe.t5.graphs.model_settings import TRAIN, Mode, ModelSettings, TransformerModel
from hmoe.t5.layers import metric_collection, replayed_choices
from hmoe.t5.layers.replayed_choices import ReplayedLayer


class ModelCall(NamedTuple):
    """The result of one call of the model.

    Attributes:
      logits: [*batch_dims, length, vocab].
      loss: [], T5's own loss with those of its layers; None if it was not asked for.
      records: one for each call of an expert layer.
    """

    logits: mtf.Tensor
    loss: mtf.Tensor
    records: list[metric_collection.Record]


def call_model(
    settings: ModelSettings,
    features: dict[str, mtf.Tensor],
    mode: Mode,
    num_microbatches: int = 1,
    compute_loss: bool = True,
) -> ModelCall:
    """Calls the transformer on whole sequences.

    Args:
      settings: the model's settings.
      features: int32 [*batch_dims, length] each; with choices to replay, also those.
      mode: TRAIN, EVAL or SCORE.
      num_microbatches: number of such calls in a step.
      compute_loss: whether to compute the loss.

    Returns:
      Logits, loss and the expert layers' records.
    """
    model = settings.transformer_model
    targets = features["targets"]
    inputs = features.get("inputs")
    if isinstance(model, transformer.Unitransformer) and settings.model_type != "aligned":
        inputs = transformer.autoregressive_inputs(
            targets, sequence_id=features.get("targets_segmentation")
        )
    replayed = replayed_choices.replaying(_replayed(settings, features))
    with _dropout(mode), replayed, metric_collection.collecting() as records:
        logits, loss = model.call_simple(
            inputs=inputs,
            targets=targets,
            compute_loss=compute_loss,
            mode=mode,
            variable_dtype=settings.variable_dtype,
            num_microbatches=num_microbatches,
            **_positions(model, features),
        )
    return ModelCall(logits, loss, list(records))


def _replayed(settings: ModelSettings, features: dict[str, mtf.Tensor]) -> list[ReplayedLayer]:
    return [
        ReplayedLayer(layer, features[batch_features.replay_name(layer)])
        for layer in settings.replayed
    ]


def _dropout(mode: Mode) -> AbstractContextManager:
    """Makes T5's dropout independent of the layout in training."""
    if mode == TRAIN:
        return randomness.layout_independent_dropout()
    return contextlib.nullcontext()


def _positions(model: TransformerModel, features: dict[str, mtf.Tensor]) -> dict[str, mtf.Tensor]:
    """Returns segments and positions of packed data, by the names of the model's arguments."""
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
        # T5 passes no padding mask for unpacked language models, and padding must not take up
        # capacity of the experts.
        given["sequence_id"] = mtf.minimum(features["targets"], 1)
    return given
