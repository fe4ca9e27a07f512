"""The graph that reads a batch by teacher forcing, and returns who went where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from mesh_tensorflow.transformer import transformer

from hmoe.analysis.decisions import LevelDecisions
from hmoe.analysis.traces import LayerInfo, LevelInfo
from hmoe.compat.stack import mtf, tf
from hmoe.layer.decisions import decisions
from hmoe.lowering.lower import lower
from hmoe.t5.graphs.call_model import call_model
from hmoe.t5.graphs.model_settings import EVAL, ModelSettings
from hmoe.t5.layers.metric_collection import LayerCall, Record


class TracedLevel(NamedTuple):
    """A level of a traced layer, as far as its graph knows it.

    Attributes:
      info: its configuration.
      capacity: C, the slots of an expert for one group.
    """

    info: LevelInfo
    capacity: int


class TracedLayer(NamedTuple):
    """A call of a traced layer.

    Attributes:
      info: the layer.
      levels: outermost first.
    """

    info: LayerInfo
    levels: tuple[TracedLevel, ...]


class TraceGraph(NamedTuple):
    """The graph that a session traces a batch with.

    Attributes:
      lowering: the lowered graph.
      tokens: int32 [batch, length], what the layers read of "inputs" and "targets".
      decisions: for each layer and level what `hmoe.layer.decisions` returns, whole.
      layers: the layers, in the order of the model.
    """

    lowering: mtf.Lowering
    tokens: dict[str, tf.Tensor]
    decisions: list[list[dict[str, tf.Tensor]]]
    layers: tuple[TracedLayer, ...]

    @property
    def fetched(self) -> list[tf.Tensor]:
        """All that a session runs of the graph."""
        return tf.nest.flatten([self.tokens, self.decisions])


def build(
    settings: ModelSettings, engine: mtf.MeshImpl, features: dict[str, mtf.Tensor]
) -> TraceGraph:
    """Builds the graph for one batch, with the capacity of an evaluation.

    Args:
      settings: the model's settings.
      engine: the mesh implementation to lower to.
      features: int32 [*batch_dims, length] each.

    Raises:
      ValueError: the model has no expert layer of hmoe's.
    """
    call = call_model(settings, features, EVAL)
    records = [record for record in call.records if record.call is not None]
    if not records:
        raise ValueError(
            "the model has no hmoe.MoELayer, so nothing is routed in it that could be traced"
        )
    decided = [[decisions(each) for each in _call(r).routed] for r in records]
    whole = tf.nest.map_structure(mtf.anonymize, (_tokens_read(settings, features), decided))
    lowering = lower(call.logits, engine, autostack=settings.autostack)
    tokens, decided = tf.nest.map_structure(lowering.export_to_tf_tensor, whole)
    # [*batch_dims, length] -> [batch, length]
    rows = {name: tf.reshape(each, [-1, each.shape[-1]]) for name, each in tokens.items()}
    layers = tuple(_layer(settings, record) for record in records)
    return TraceGraph(lowering, rows, decided, layers)


def _call(record: Record) -> LayerCall:
    assert record.call is not None, "records without a call are left out"
    return record.call


def _tokens_read(settings: ModelSettings, features: dict[str, mtf.Tensor]) -> dict[str, mtf.Tensor]:
    """Returns what the layers of each stack read; a decoder reads its targets one step later."""
    found = {}
    if "inputs" in features and not _is_decoder_alone(settings):
        found["inputs"] = features["inputs"]
    if settings.model_type != "aligned":
        found["targets"] = transformer.autoregressive_inputs(features["targets"])
    return found


def _is_decoder_alone(settings: ModelSettings) -> bool:
    is_single = isinstance(settings.transformer_model, transformer.Unitransformer)
    return is_single and settings.model_type != "aligned"


def _sequence(settings: ModelSettings, record: Record) -> str:
    """Returns whose tokens a layer routes."""
    if _is_decoder_alone(settings):
        return "targets"
    is_in_decoder = "decoder" in record.name.split("/")
    return "targets" if is_in_decoder and not _call(record).of_encoder else "inputs"


def _layer(settings: ModelSettings, record: Record) -> TracedLayer:
    call = _call(record)
    levels = []
    for level, routed in zip(call.moe.levels, call.routed):
        router, size = level.router, level.num_experts
        choices = router.num_choices(size)
        in_order = routed.assignment.choices.in_order
        level_info = LevelInfo(level.name, size, choices, type(router).__name__, in_order)
        levels.append(TracedLevel(level_info, routed.shape.capacity_dim.size))
    info = LayerInfo(record.name, _sequence(settings, record), tuple(each.info for each in levels))
    return TracedLayer(info, tuple(levels))


def level_decisions(
    layer: TracedLayer, arrays: Sequence[Mapping[str, np.ndarray]]
) -> list[LevelDecisions]:
    """Returns the decisions of a layer about a batch, from what a session fetched."""
    return [
        LevelDecisions(level.info, level.capacity, found)
        for level, found in zip(layer.levels, arrays)
    ]
