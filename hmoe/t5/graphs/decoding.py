"""The graphs that predict targets from inputs, and that score given targets."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import gin
from mesh_tensorflow.transformer import transformer, utils

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.lower import lower
from hmoe.t5.graphs.call_model import call_model
from hmoe.t5.graphs.cross_entropy import TargetCrossEntropy, target_weights
from hmoe.t5.graphs.model_settings import SCORE, ModelSettings


class DecodingGraph(NamedTuple):
    """The graph that a session predicts or scores a batch with.

    Attributes:
      lowering: the lowered graph.
      predictions: tensors with one row per example: ids "inputs" and "outputs", int32 [batch,
        length] up to their end marks; or ids "targets" and "scores", float32 [batch].
      below_zero: float32 [], the sum of `TargetLosses.below_zero` over scored targets; 0 when
        nothing is scored.
    """

    lowering: mtf.Lowering
    predictions: dict[str, tf.Tensor]
    below_zero: tf.Tensor

    @property
    def fetched(self) -> list[tf.Tensor]:
        """All that a session runs of the graph."""
        return [*self.predictions.values(), self.below_zero]


def build_prediction(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: dict[str, mtf.Tensor],
    num_rows: tf.Tensor | None,
) -> DecodingGraph:
    """Builds greedy decoding, sampling or beam search, as gin sets the model up.

    Args:
      settings: the model's settings.
      engine: the mesh implementation to lower to.
      features: int32 [batch, length] each; "inputs" is among them.
      num_rows: int32 [], the rows to return; later rows only fill up the batch. None for all.

    Returns:
      The graph, which predicts "inputs" and "outputs".
    """
    inputs, samples = _samples(settings, features)
    lowering, tensors = _lower(settings, engine, {"inputs": inputs, "outputs": samples})
    predictions = {name: utils.clean_decodes(ids) for name, ids in tensors.items()}
    return DecodingGraph(lowering, _first_rows(predictions, num_rows), tf.constant(0.0))


def _samples(
    settings: ModelSettings, features: dict[str, mtf.Tensor]
) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the inputs, padded if a single stack continues them, and the decoded ids."""
    inputs = features["inputs"]
    model, dtype = settings.transformer_model, settings.variable_dtype
    if settings.predict_fn:
        return inputs, settings.predict_fn(model=model, features=features, variable_dtype=dtype)
    if isinstance(model, transformer.Bitransformer):
        return inputs, model.decode(inputs, variable_dtype=dtype, **_beam_length(inputs))
    if not isinstance(model, transformer.Unitransformer):
        return inputs, model.decode(inputs, variable_dtype=dtype)
    # A single stack reads and continues one sequence, which must have room for the targets.
    room = settings.sequence_length["targets"]
    inputs = mtf.pad(inputs, [0, room], inputs.shape.dims[-1].name)
    samples = model.sample_autoregressive(
        inputs, variable_dtype=dtype, remove_partial_sequences=True
    )
    return inputs, samples


def _beam_length(inputs: mtf.Tensor) -> dict[str, float]:
    """Returns the longest length of beams that gin allows for the longest inputs that fit.

    T5 takes the longest inputs of the batch instead, which would let the other examples of a batch
    change where a prediction ends.
    """
    parameters = inspect.signature(transformer.Bitransformer.decode).parameters
    bound = gin.get_bindings("Bitransformer.decode")
    names = ("decode_length_multiplier", "decode_length_constant")
    multiplier, constant = (bound.get(name, parameters[name].default) for name in names)
    longest = inputs.shape.dims[-1].size
    return dict(zip(names, (0.0, float(int(longest * multiplier + constant)))))


def build_scoring(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: dict[str, mtf.Tensor],
    num_rows: tf.Tensor | None,
) -> DecodingGraph:
    """Builds the log likelihood of each row of targets, in nats.

    Args:
      settings: the model's settings.
      engine: the mesh implementation to lower to.
      features: int32 [batch, length] each; "targets" is among them.
      num_rows: as in `build_prediction`.

    Returns:
      The graph, which predicts "targets" and "scores".
    """
    targets = features["targets"]
    below_zero = mtf.constant(targets.mesh, 0.0, dtype=tf.float32)
    if settings.predict_fn:
        likelihood = settings.predict_fn(
            model=settings.transformer_model,
            features=features,
            variable_dtype=settings.variable_dtype,
        )
    else:
        logits = call_model(settings, features, SCORE, compute_loss=False).logits
        weights = target_weights(targets, settings.model_type != "delimited_lm")
        losses = TargetCrossEntropy(logits, targets).losses(weights)
        # [batch, length] -> [batch]
        likelihood = -mtf.reduce_sum(losses.cross_entropy, reduced_dim=targets.shape.dims[-1])
        below_zero = mtf.reduce_sum(losses.below_zero)
    lowering, tensors = _lower(
        settings, engine, {"targets": targets, "scores": likelihood, "below_zero": below_zero}
    )
    predictions = {
        "targets": utils.clean_decodes(tensors["targets"]),
        "scores": tensors["scores"],
    }
    return DecodingGraph(lowering, _first_rows(predictions, num_rows), tensors["below_zero"])


def _first_rows(
    predictions: dict[str, tf.Tensor], num_rows: tf.Tensor | None
) -> dict[str, tf.Tensor]:
    """Leaves out the rows that only fill up the batch."""
    if num_rows is None:
        return predictions
    return {name: value[:num_rows] for name, value in predictions.items()}


def _lower(
    settings: ModelSettings, engine: mtf.MeshImpl, tensors: dict[str, mtf.Tensor]
) -> tuple[mtf.Lowering, dict[str, tf.Tensor]]:
    """Lowers the graph of some tensors, and exports these whole."""
    whole = {name: mtf.anonymize(value) for name, value in tensors.items()}
    some = next(iter(whole.values()))
    lowering = lower(some, engine, autostack=settings.autostack)
    return lowering, {name: lowering.export_to_tf_tensor(value) for name, value in whole.items()}
