"""Builds the graph of one mode of a T5, on whichever engine the mesh is.

The same functions serve the sessions of `hmoe.t5.estimator` and, on a TPU, TensorFlow's
``TPUEstimator``. They are built on Mesh TensorFlow's public functions and take T5's gin names, so
that a gin file means what it means to T5's own command. They add to it: the cross entropy apart
from other losses, and the expert layers' metrics, in training and in evaluation.
"""

from __future__ import annotations

from typing import Any, Callable, Dict

from hmoe import compat
from hmoe.compat.stack import mtf, tf
from hmoe.t5 import decoding_graph, evaluation_graph, training_graph
from hmoe.t5 import features as feature_lib
from hmoe.t5.placement import SharingPlacement
from hmoe.t5.settings import ModelSettings

#: Modes, by the values that TensorFlow's ``ModeKeys`` has.
TRAIN, EVAL, PREDICT, SCORE = "train", "eval", "infer", "score"


def build_graph(
    settings: ModelSettings, features: Dict[str, tf.Tensor], mode: str, tpu_context: Any = None
) -> Any:
    """Builds the graph of a mode into TensorFlow's default graph.

    Args:
        settings: of the model.
        features: int [batch, length] each; may hold "predict_batch_size", the number of rows that
            are asked for and not filled up.
        mode: TRAIN, EVAL, PREDICT or SCORE.
        tpu_context: ``params["context"]`` of ``TPUEstimator``, on a TPU.

    Returns:
        What a session needs: a `TrainingGraph`, an `EvaluationGraph`, or for the two other modes a
        `DecodingGraph`.

    Raises:
        ValueError: the data or the batch does not suit the model.
    """
    compat.use_resource_variables()
    features = dict(features)
    num_rows = features.pop("predict_batch_size", None)
    engine, placer = _engine(settings, tpu_context)
    mesh = mtf.Mesh(mtf.Graph(), "mesh", placer)
    dims = feature_lib.batch_dims(settings, with_outer_batch=mode in (TRAIN, EVAL))
    named = feature_lib.import_features(settings, mesh, features, dims)
    feature_lib.check_features(settings, mode, named)
    named = feature_lib.joined_for_lm(settings, mode, named)
    if mode == TRAIN:
        return training_graph.build(settings, engine, named, dims[-1])
    if mode == EVAL:
        return evaluation_graph.build(settings, engine, named)
    build: Callable = decoding_graph.scores if mode == SCORE else decoding_graph.answers
    return build(settings, engine, named, num_rows)


def _engine(settings: ModelSettings, tpu_context: Any) -> tuple[mtf.MeshImpl, Any]:
    """The mesh's engine, and what places variables on hosts (None: where TensorFlow likes)."""
    if tpu_context is not None:
        from hmoe.t5 import tpu

        return tpu.engine(settings, tpu_context), tpu.variable_placer(tpu_context)
    return SharingPlacement(
        settings.mesh_shape, settings.layout_rules, settings.mesh_devices
    ), None
