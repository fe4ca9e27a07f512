"""From a batch of ids to the named-dimension features that the model is called with."""

from __future__ import annotations

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs.model_settings import ModelSettings, text_length

# Number of the microbatch that a row falls into; see `microbatch_feature`.
MICROBATCH = "hmoe_microbatch"


def batch_dims(settings: ModelSettings, with_outer_batch: bool) -> list[mtf.Dimension]:
    """[outer_batch, batch] in training and evaluation, [batch] in prediction and scoring.

    Raises:
      ValueError: the batch cannot be divided into the outer batch.
    """
    size, outer = settings.batch_size, settings.outer_batch_size
    if not (with_outer_batch and outer):
        return [mtf.Dimension("batch", size)]
    if size % outer:
        raise ValueError(
            f"utils.run.batch_size: {size} examples cannot be divided into "
            f"tpu_estimator_model_fn.outer_batch_size = {outer} equal parts; "
            f"use a batch size that is a multiple of {outer}"
        )
    return [mtf.Dimension("outer_batch", outer), mtf.Dimension("batch", size // outer)]


def import_features(
    settings: ModelSettings,
    mesh: mtf.Mesh,
    features: dict[str, tf.Tensor],
    dims: list[mtf.Dimension],
) -> dict[str, mtf.Tensor]:
    """Brings ids onto the mesh.

    Args:
      settings: of the model.
      mesh: to bring them to.
      features: int [batch, length] each, by name.
      dims: the batch dimensions.

    Returns:
      int32 [*dims, length] each, with the ensemble's dimension first if there is one.
    """
    ensemble = settings.ensemble_inputs
    first = [mtf.Dimension("ensemble", ensemble)] if ensemble else []
    imported = {}
    for name, ids in features.items():
        length = mtf.Dimension("length", text_length(settings, name))
        shape = mtf.Shape(first + dims + [length])
        ids = tf.reshape(tf.cast(ids, tf.int32), shape.to_integer_list)
        imported[name] = mtf.import_fully_replicated(mesh, ids, shape, name=name)
    return imported


def check_features(settings: ModelSettings, mode: str, features: dict[str, mtf.Tensor]) -> None:
    """Raises ValueError if the data has not the features that the model type needs."""
    model_type = settings.model_type
    needed = ["inputs"] if mode == "infer" else ["targets"]
    if mode in ("train", "eval") and model_type != "lm":
        needed.insert(0, "inputs")
    missing = [name for name in needed if name not in features]
    surplus = ["inputs"] if mode in ("train", "eval") and model_type == "lm" else []
    surplus = [name for name in surplus if name in features]
    if missing or surplus:
        what = f"lacks {', '.join(missing)}" if missing else f"should not have {surplus[0]}"
        raise ValueError(
            f"the data {what}: model_type {model_type!r} in mode {mode!r} was given "
            f"{', '.join(sorted(features))}. 'lm' is for tasks with targets only, 'delimited_lm' "
            "and 'bitransformer' for tasks with inputs and targets (utils.run.model_type)"
        )


def joined_for_lm(
    settings: ModelSettings, mode: str, features: dict[str, mtf.Tensor]
) -> dict[str, mtf.Tensor]:
    """Inputs and targets as one sequence, where a model with one stack reads pairs."""
    joins = settings.model_type == "delimited_lm" and mode != "infer"
    joins = joins or (settings.model_type == "lm" and mode == "score")
    if joins and "inputs" in features:
        return utils._dynamic_text2self(features)
    return features


def microbatch_feature(
    mesh: mtf.Mesh, batch_dim: mtf.Dimension, num_microbatches: int
) -> mtf.Tensor:
    """A feature int32 [batch] that tells each microbatch its own number.

    Upstream cuts features along the batch dimension only, row i into microbatch i modulo their
    number, so a number for each row comes out as one number in each microbatch.
    """
    numbers = tf.range(batch_dim.size) % num_microbatches
    return mtf.import_fully_replicated(mesh, numbers, mtf.Shape([batch_dim]), name=MICROBATCH)


def microbatch_number(feature: mtf.Tensor) -> mtf.Tensor:
    """The scalar int32 number from a microbatch's part of `microbatch_feature`."""
    total = mtf.reduce_sum(mtf.to_float(feature), output_shape=[])
    return mtf.to_int32(total / float(feature.shape.size))
