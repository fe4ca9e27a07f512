"""Imports a batch of token ids onto the mesh, as the named-dimension features of the model."""

from __future__ import annotations

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.analysis.traces import LayerInfo
from hmoe.compat.stack import mtf, tf
from hmoe.layer.replay import vector_dim
from hmoe.lowering.collective import CollectiveMesh
from hmoe.t5.graphs.model_settings import (
    EVAL,
    PREDICT,
    SCORE,
    TRAIN,
    Mode,
    ModelSettings,
    text_length,
)

# Begins the names of features with the choices of a trace; see `replay_name`.
_REPLAY = "hmoe_replay/"
# Name of the feature that numbers the microbatches; see `microbatch_feature`.
MICROBATCH = "hmoe_microbatch"


def batch_dims(settings: ModelSettings, with_outer_batch: bool) -> list[mtf.Dimension]:
    """Returns [outer_batch, batch] for training and evaluation, [batch] for predicting and scoring.

    Raises:
      ValueError: the outer batch does not divide the batch.
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
    engine: mtf.MeshImpl | None = None,
) -> dict[str, mtf.Tensor]:
    """Imports token ids onto the mesh.

    Args:
      settings: the model's settings.
      mesh: the mesh to import to.
      features: int [batch, length] each, by name; on a mesh of processes perhaps the rows of this
        one's slice alone, which `rows_of_slice` numbers.
      dims: the batch dimensions.
      engine: the mesh implementation; only one of processes matters.

    Returns:
      int32 [*dims, length] each; an ensemble's dimension, if there is one, comes first.
    """
    ensemble = settings.ensemble_inputs
    first = [mtf.Dimension("ensemble", ensemble)] if ensemble else []
    imported = {}
    for name, ids in features.items():
        if name.startswith(_REPLAY):
            continue
        length = mtf.Dimension("length", text_length(settings, name))
        shape = mtf.Shape(first + dims + [length])
        ids = tf.cast(ids, tf.int32)
        if isinstance(engine, CollectiveMesh) and ids.shape[0] != settings.batch_size:
            # [rows of the slice, length] -> the slice of [outer_batch?, batch, length]
            ids = tf.reshape(ids, engine.slice_shape(shape))
            laid_out = engine.LaidOutTensor([ids])
            imported[name] = mtf.import_laid_out_tensor(mesh, laid_out, shape, name=name)
            continue
        # [batch, length] -> [ensemble?, outer_batch?, batch, length]
        ids = tf.reshape(ids, shape.to_integer_list)
        imported[name] = mtf.import_fully_replicated(mesh, ids, shape, name=name)
    return {**imported, **_import_replayed(settings, mesh, features, dims)}


def replay_name(layer: LayerInfo) -> str:
    """Returns the name of the feature float32 [batch, length, V] with a layer's choices."""
    return f"{_REPLAY}{layer.name}"


def _import_replayed(
    settings: ModelSettings,
    mesh: mtf.Mesh,
    features: dict[str, tf.Tensor],
    dims: list[mtf.Dimension],
) -> dict[str, mtf.Tensor]:
    """Imports the choices that layers replay, if any, as float32 [*dims, length, V]."""
    imported = {}
    for layer in settings.replayed:
        name = replay_name(layer)
        length = mtf.Dimension("length", text_length(settings, layer.sequence))
        shape = mtf.Shape([*dims, length, vector_dim(features[name].shape.as_list()[-1])])
        # [batch, length, V] -> [outer_batch?, batch, length, V]
        vectors = tf.reshape(features[name], shape.to_integer_list)
        imported[name] = mtf.import_fully_replicated(mesh, vectors, shape, name="replay")
    return imported


def rows_of_slice(settings: ModelSettings, engine: mtf.MeshImpl) -> list[int] | None:
    """Returns which rows of a training batch the slice of this process has.

    Returns:
      Their numbers, in order; None for all.
    """
    if not isinstance(engine, CollectiveMesh) or settings.ensemble_inputs:
        return None
    shape = mtf.Shape(batch_dims(settings, with_outer_batch=True))
    begin, size = engine.slice_begin(shape, engine.pnum), engine.slice_shape(shape)
    # [outer_batch?, batch], the number of each row
    numbers = np.arange(shape.size).reshape(shape.to_integer_list)
    rows = numbers[tuple(slice(b, b + s) for b, s in zip(begin, size))].ravel().tolist()
    return rows if len(rows) < shape.size else None


def check_features(settings: ModelSettings, mode: Mode, features: dict[str, mtf.Tensor]) -> None:
    """Raises ValueError unless the data has exactly the features that the model type reads."""
    model_type = settings.model_type
    needed = ["inputs"] if mode == PREDICT else ["targets"]
    if mode in (TRAIN, EVAL) and model_type != "lm":
        needed.insert(0, "inputs")
    missing = [name for name in needed if name not in features]
    surplus = ["inputs"] if mode in (TRAIN, EVAL) and model_type == "lm" else []
    surplus = [name for name in surplus if name in features]
    if missing or surplus:
        what = f"lacks {', '.join(missing)}" if missing else f"should not have {surplus[0]}"
        raise ValueError(
            f"the data {what}: model_type {model_type!r} in mode {mode!r} was given "
            f"{', '.join(sorted(features))}. 'lm' is for tasks with targets only, 'delimited_lm' "
            "and 'bitransformer' for tasks with inputs and targets (utils.run.model_type)"
        )


def joined_for_lm(
    settings: ModelSettings, mode: Mode, features: dict[str, mtf.Tensor]
) -> dict[str, mtf.Tensor]:
    """Joins inputs and targets into one sequence where a single-stack model reads pairs."""
    joins = settings.model_type == "delimited_lm" and mode != PREDICT
    joins = joins or (settings.model_type == "lm" and mode == SCORE)
    if joins and "inputs" in features:
        return utils._dynamic_text2self(features)
    return features


def microbatch_feature(
    mesh: mtf.Mesh, batch_dim: mtf.Dimension, num_microbatches: int
) -> mtf.Tensor:
    """Returns a feature int32 [batch] that gives each microbatch its own number.

    Mesh TensorFlow can cut features only along the batch dimension, and puts row i into microbatch
    i modulo their number. The same number for each of these rows is one number per microbatch.
    """
    numbers = tf.range(batch_dim.size) % num_microbatches
    return mtf.import_fully_replicated(mesh, numbers, mtf.Shape([batch_dim]), name=MICROBATCH)


def microbatch_number(feature: mtf.Tensor) -> mtf.Tensor:
    """Returns the number int32 [] of a microbatch from its part of `microbatch_feature`."""
    total = mtf.reduce_sum(mtf.to_float(feature), output_shape=[])
    return mtf.to_int32(total / float(feature.shape.size))
