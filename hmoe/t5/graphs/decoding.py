"""The graphs that answer inputs, and that score given targets."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import gin
from mesh_tensorflow.transformer import transformer, utils

from hmoe.compat.stack import mtf, tf
from hmoe.lowering.lower import lower
from hmoe.t5.graphs import call_model
from hmoe.t5.graphs.model_settings import ModelSettings


class DecodingGraph(NamedTuple):
    """What a session needs to answer or score a batch.

    Attributes:
      lowering: of the named-dimension graph.
      predictions: tensors with a row for each example; "inputs" and "outputs", or "targets" and
        "scores". Text where the vocabulary can decode in the graph, else ids.
      below_zero: float32 [], the sum of `forward.TargetLosses` over scored targets; else 0.
    """

    lowering: mtf.Lowering
    predictions: dict[str, tf.Tensor]
    below_zero: tf.Tensor


def answers(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: dict[str, mtf.Tensor],
    num_rows: tf.Tensor | None,
) -> DecodingGraph:
    """Greedy, sampled or beam decoding, by gin's settings of the model.

    Args:
      settings: of the model.
      engine: the mesh to lower to.
      features: int32 [batch, length] each; "inputs" among them.
      num_rows: int32 []; rows after this number fill up the batch and are left out. None for all.

    Returns:
      The graph; predictions "inputs" and "outputs".
    """
    inputs = features["inputs"]
    inputs, samples = _samples(settings, features, inputs)
    lowering, tensors = _lower(settings, engine, {"inputs": inputs, "outputs": samples})
    input_vocabulary = utils.inputs_vocabulary(settings.vocabulary)
    output_vocabulary = utils.targets_vocabulary(settings.vocabulary)
    predictions = {
        "inputs": _text(settings, tensors["inputs"], input_vocabulary),
        "outputs": _text(settings, tensors["outputs"], output_vocabulary),
    }
    return DecodingGraph(lowering, _first_rows(predictions, num_rows), tf.constant(0.0))


def _samples(
    settings: ModelSettings, features: dict[str, mtf.Tensor], inputs: mtf.Tensor
) -> tuple[mtf.Tensor, mtf.Tensor]:
    model, dtype = settings.transformer_model, settings.variable_dtype
    if settings.predict_fn:
        return inputs, settings.predict_fn(model=model, features=features, variable_dtype=dtype)
    if isinstance(model, transformer.Bitransformer):
        return inputs, model.decode(inputs, variable_dtype=dtype, **_limits(inputs))
    if not isinstance(model, transformer.Unitransformer):
        return inputs, model.decode(inputs, variable_dtype=dtype)
    # One stack reads and continues the same sequence, which needs room for the answer.
    room = settings.sequence_length["targets"]
    inputs = mtf.pad(inputs, [0, room], inputs.shape.dims[-1].name)
    samples = model.sample_autoregressive(
        inputs, variable_dtype=dtype, remove_partial_sequences=True
    )
    return inputs, samples


def _limits(inputs: mtf.Tensor) -> dict[str, Any]:
    """How long beams may grow: as far as gin lets them for the longest inputs that fit.

    T5 takes the longest inputs of the batch, so that an answer could end sooner for its neighbours.
    """
    parameters = inspect.signature(transformer.Bitransformer.decode).parameters
    given = gin.get_bindings("Bitransformer.decode")
    names = ("decode_length_multiplier", "decode_length_constant")
    multiplier, constant = (given.get(name, parameters[name].default) for name in names)
    longest = inputs.shape.dims[-1].size
    return dict(zip(names, (0.0, float(int(longest * multiplier + constant)))))


def scores(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: dict[str, mtf.Tensor],
    num_rows: tf.Tensor | None,
) -> DecodingGraph:
    """Log likelihood of each row of targets, in nats.

    Args:
      settings: of the model.
      engine: the mesh to lower to.
      features: int32 [batch, length] each; "targets" among them.
      num_rows: as in `answers`.

    Returns:
      The graph; predictions "targets" and "scores".
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
        logits, _, _ = call_model.call_model(settings, features, "score", compute_loss=False)
        weights = call_model.target_weights(targets, settings.model_type != "delimited_lm")
        losses = call_model.target_losses(logits, targets, weights)
        likelihood = -mtf.reduce_sum(losses.cross_entropy, reduced_dim=targets.shape.dims[-1])
        below_zero = mtf.reduce_sum(losses.below_zero)
    lowering, tensors = _lower(
        settings, engine, {"targets": targets, "scores": likelihood, "below_zero": below_zero}
    )
    vocabulary = utils.targets_vocabulary(settings.vocabulary)
    predictions = {
        "targets": _text(settings, tensors["targets"], vocabulary),
        "scores": tensors["scores"],
    }
    return DecodingGraph(lowering, _first_rows(predictions, num_rows), tensors["below_zero"])


def _first_rows(
    predictions: dict[str, tf.Tensor], num_rows: tf.Tensor | None
) -> dict[str, tf.Tensor]:
    """Leaves out the rows that fill up the batch."""
    if num_rows is None:
        return predictions
    return {name: value[:num_rows] for name, value in predictions.items()}


def _lower(
    settings: ModelSettings, engine: mtf.MeshImpl, tensors: dict[str, mtf.Tensor]
) -> tuple[mtf.Lowering, dict[str, tf.Tensor]]:
    whole = {name: mtf.anonymize(value) for name, value in tensors.items()}
    some = next(iter(whole.values()))
    lowering = lower(some, engine, autostack=settings.autostack)
    return lowering, {name: lowering.export_to_tf_tensor(value) for name, value in whole.items()}


def _text(settings: ModelSettings, ids: tf.Tensor, vocabulary: Any) -> tf.Tensor:
    """Text [batch] of ids [batch, length] up to the end mark, or the ids on a TPU."""
    ids = utils.clean_decodes(ids)
    if settings.use_tpu or not hasattr(vocabulary, "decode_tf"):
        return ids
    return vocabulary.decode_tf(ids)
