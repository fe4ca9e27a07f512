"""Builds the graph of one mode of a T5, for any mesh implementation.

The same functions serve the sessions of `hmoe.t5.sessions` and, on a TPU, TensorFlow's
`TPUEstimator`. They are built on Mesh TensorFlow's public functions and read T5's gin names, so a
gin file has the meaning that it has for T5's own command. They add the cross entropy apart from
other losses, and the expert layers' metrics, in training and in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, overload

from hmoe import compat
from hmoe.compat.stack import mtf, tf
from hmoe.lowering.collective import CollectiveMesh
from hmoe.lowering.lower import make_mesh
from hmoe.t5.graphs import batch_features as feature_lib
from hmoe.t5.graphs import decoding, evaluation, tracing, training
from hmoe.t5.graphs.decoding import DecodingGraph
from hmoe.t5.graphs.evaluation import EvaluationGraph
from hmoe.t5.graphs.model_settings import EVAL, SCORE, TRAIN, Mode, ModelSettings
from hmoe.t5.graphs.tracing import TraceGraph
from hmoe.t5.graphs.training import TrainingGraph

Features: TypeAlias = dict[str, tf.Tensor]
VariablePlacer: TypeAlias = mtf.utils.BalancedVariablePlacer


@overload
def build_graph(
    settings: ModelSettings,
    features: Features,
    mode: Literal["train"],
    mesh_impl: mtf.MeshImpl | None = None,
    variable_placer: VariablePlacer | None = None,
    add_up_sums: bool = False,
) -> TrainingGraph: ...


@overload
def build_graph(
    settings: ModelSettings,
    features: Features,
    mode: Literal["eval"],
    mesh_impl: mtf.MeshImpl | None = None,
    variable_placer: VariablePlacer | None = None,
) -> EvaluationGraph: ...


@overload
def build_graph(
    settings: ModelSettings,
    features: Features,
    mode: Literal["infer", "score"],
    mesh_impl: mtf.MeshImpl | None = None,
    variable_placer: VariablePlacer | None = None,
) -> DecodingGraph: ...


def build_graph(
    settings: ModelSettings,
    features: Features,
    mode: Mode,
    mesh_impl: mtf.MeshImpl | None = None,
    variable_placer: VariablePlacer | None = None,
    add_up_sums: bool = False,
) -> TrainingGraph | EvaluationGraph | DecodingGraph:
    """Builds the graph of a mode into TensorFlow's default graph.

    Args:
      settings: the model's settings.
      features: int [batch, length] each, or on a mesh of processes the rows of this one's slice
        alone; may hold "predict_batch_size", the number of rows that
        are asked for, the others being padding that fills up the batch.
      mode: TRAIN, EVAL, PREDICT or SCORE.
      mesh_impl: the mesh implementation to lower to; by default one of CPUs and GPUs, as the
        settings list them.
      variable_placer: what spreads the saved variables over hosts; by default TensorFlow.
      add_up_sums: in training, whether a variable of the mesh adds up the sums over steps, for a
        host that cannot fetch them.

    Returns:
      A `TrainingGraph`, an `EvaluationGraph`, or a `DecodingGraph` for the two other modes.

    Raises:
      ValueError: the data or the batch size does not suit the model.
    """
    features = dict(features)
    num_rows = features.pop("predict_batch_size", None)
    engine = mesh_impl or _mesh(settings)
    named = _named(settings, engine, features, mode, variable_placer)
    batch_dim = named["targets" if "targets" in named else "inputs"].shape.dims[-2]
    graph = _build(settings, engine, named, batch_dim, mode, num_rows, add_up_sums)
    _finish(engine, graph.fetched)
    return graph


def build_trace_graph(
    settings: ModelSettings, features: Features, mesh_impl: mtf.MeshImpl | None = None
) -> TraceGraph:
    """Builds the graph that tells who goes where, into TensorFlow's default graph.

    Args:
      settings: the model's settings.
      features: int [batch, length] each.
      mesh_impl: as in `build_graph`.

    Raises:
      ValueError: the data or the batch size does not suit the model, or nothing is routed in it.
    """
    engine = mesh_impl or _mesh(settings)
    named = _named(settings, engine, features, EVAL)
    graph = tracing.build(settings, engine, named)
    _finish(engine, graph.fetched)
    return graph


def _mesh(settings: ModelSettings) -> mtf.MeshImpl:
    return make_mesh(settings.mesh_shape, settings.layout_rules, settings.mesh_devices)


def _named(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: Features,
    mode: Mode,
    variable_placer: VariablePlacer | None = None,
) -> dict[str, mtf.Tensor]:
    """Returns the features on a new mesh, int32 [*batch_dims, length] each."""
    compat.use_resource_variables()
    mesh = mtf.Mesh(mtf.Graph(), "mesh", variable_placer)
    dims = feature_lib.batch_dims(settings, with_outer_batch=mode in (TRAIN, EVAL))
    named = feature_lib.import_features(settings, mesh, features, dims, engine)
    feature_lib.check_features(settings, mode, named)
    return feature_lib.joined_for_lm(settings, mode, named)


def _finish(engine: mtf.MeshImpl, fetched: Sequence[tf.Tensor | tf.Operation]) -> None:
    """Fuses what processes exchange for what is fetched."""
    if isinstance(engine, CollectiveMesh):
        engine.finish(fetched)


def _build(
    settings: ModelSettings,
    engine: mtf.MeshImpl,
    features: dict[str, mtf.Tensor],
    batch_dim: mtf.Dimension,
    mode: Mode,
    num_rows: tf.Tensor | None,
    add_up_sums: bool,
) -> TrainingGraph | EvaluationGraph | DecodingGraph:
    if mode == TRAIN:
        return training.build(settings, engine, features, batch_dim, add_up_sums)
    if mode == EVAL:
        return evaluation.build(settings, engine, features)
    build = decoding.build_scoring if mode == SCORE else decoding.build_prediction
    return build(settings, engine, features, num_rows)
