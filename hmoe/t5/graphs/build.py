"""Builds the graph of one mode of a T5, on whichever engine the mesh is.

The same functions serve the sessions of `hmoe.t5.sessions.estimator` and, on a TPU, TensorFlow's
`TPUEstimator`. They are built on Mesh TensorFlow's public functions and take T5's gin names, so
that a gin file means what it means to T5's own command. They add to it: the cross entropy apart
from other losses, and the expert layers' metrics, in training and in evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hmoe import compat
from hmoe.compat.stack import mtf, tf
from hmoe.lowering.lower import make_mesh
from hmoe.t5.graphs import batch_features as feature_lib
from hmoe.t5.graphs import decoding, evaluation, training
from hmoe.t5.graphs.model_settings import EVAL, SCORE, TRAIN, ModelSettings


def build_graph(
    settings: ModelSettings,
    features: dict[str, tf.Tensor],
    mode: str,
    mesh_impl: mtf.MeshImpl | None = None,
    variable_placer: mtf.utils.BalancedVariablePlacer | None = None,
    *,
    reuse_graph: bool = True,
) -> Any:
    """Builds the graph of a mode into TensorFlow's default graph.

    Args:
      settings: of the model.
      features: int [batch, length] each; may hold "predict_batch_size", the number of rows that
        are asked for and not filled up.
      mode: TRAIN, EVAL, PREDICT or SCORE.
      mesh_impl: the mesh to lower to; by default CPUs and GPUs as the settings list them.
      variable_placer: what spreads the saved variables over hosts; by default TensorFlow.
      reuse_graph: as in `hmoe.t5.sessions.session_settings.SessionSettings`, for the default of
        `mesh_impl`.

    Returns:
      What a session needs: a `TrainingGraph`, an `EvaluationGraph`, or for the two other modes a
      `DecodingGraph`.

    Raises:
      ValueError: the data or the batch does not suit the model.
    """
    compat.use_resource_variables()
    features = dict(features)
    num_rows = features.pop("predict_batch_size", None)
    engine = mesh_impl or make_mesh(
        settings.mesh_shape,
        settings.layout_rules,
        settings.mesh_devices,
        reuse_graph=reuse_graph,
    )
    mesh = mtf.Mesh(mtf.Graph(), "mesh", variable_placer)
    dims = feature_lib.batch_dims(settings, with_outer_batch=mode in (TRAIN, EVAL))
    named = feature_lib.import_features(settings, mesh, features, dims)
    feature_lib.check_features(settings, mode, named)
    named = feature_lib.joined_for_lm(settings, mode, named)
    if mode == TRAIN:
        return training.build(settings, engine, named, dims[-1])
    if mode == EVAL:
        return evaluation.build(settings, engine, named)
    build: Callable = decoding.scores if mode == SCORE else decoding.answers
    return build(settings, engine, named, num_rows)
