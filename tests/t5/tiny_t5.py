"""A T5 of a few hundred weights, built and run on any mesh from given weights."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import gin
import numpy as np
from mesh_tensorflow.transformer import transformer, transformer_layers, vocab_embeddings  # noqa: F401

import hmoe.t5  # noqa: F401
from hmoe.compat.stack import mtf, tf
from hmoe.t5.layers import metric_collection
from tests import meshes

LAYOUT = "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows"
VOCAB, BATCH, LENGTH = 11, 8, 6

CONFIG = """
transformer.Unitransformer.d_model = 16
transformer.Unitransformer.max_length = 6
transformer.Unitransformer.shared_embedding_and_softmax_weights = False
transformer.Unitransformer.positional_embedding = False
transformer.make_layer_stack.num_layers = 1
transformer.LayerStack.sublayers_initial = [@transformer.sublayer_dropout]
transformer.LayerStack.sublayers_per_layer = [
    @transformer.sublayer_rms_norm, @transformer.sublayer_call_layer,
    @transformer.sublayer_dropout, @transformer.sublayer_residual]
transformer.LayerStack.sublayers_final = [
    @transformer.sublayer_rms_norm, @transformer.sublayer_dropout]
transformer_layers.SelfAttention.num_heads = 2
transformer_layers.SelfAttention.key_value_size = 5
transformer_layers.SelfAttention.relative_attention_type = "bias_shared"
transformer_layers.EncDecAttention.num_heads = 2
transformer_layers.EncDecAttention.key_value_size = 5
transformer_layers.DenseReluDense.hidden_size = 14
encoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention, @hmoe.MoELayer]
decoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention, @transformer_layers.EncDecAttention, @hmoe.MoELayer]
hmoe.MoELayer.moe = @hmoe.HierarchicalMoE()
hmoe.HierarchicalMoE.levels = [@outer/hmoe.Level(), @inner/hmoe.Level()]
hmoe.HierarchicalMoE.experts = @hmoe.FeedForwardExperts()
hmoe.FeedForwardExperts.hidden_size = 12
hmoe.Level.router = @hmoe.TopKRouter()
hmoe.Level.group_size = 12
hmoe.Level.min_capacity = 1
outer/hmoe.Level.name = "outer"
outer/hmoe.Level.num_experts = 4
inner/hmoe.Level.name = "inner"
inner/hmoe.Level.num_experts = 2
"""


@dataclasses.dataclass
class Built:
    """A model in a graph of its own, lowered for a mesh.

    Attributes:
      values: what `run` fetches, by name.
      graph: the mtf graph.
      lowering: of the graph.
    """

    values: dict[str, Any]
    graph: mtf.Graph
    lowering: mtf.Lowering


@contextlib.contextmanager
def configured(*bindings: str):
    """Gin with the model above and `bindings` after it; cleared again at the end."""
    gin.clear_config()
    try:
        gin.parse_config([CONFIG, *bindings])
        yield
    finally:
        gin.clear_config()


def tokens(seed: int, batch: int = BATCH, padding: bool = True) -> np.ndarray:
    """int32 [batch, LENGTH]: random ids, the sequences of different lengths."""
    rng = np.random.RandomState(seed)
    ids = rng.randint(2, VOCAB, [batch, LENGTH])
    if padding:
        for row, length in enumerate(rng.randint(2, LENGTH + 1, [batch])):
            ids[row, length:] = 0
    return ids.astype(np.int32)


def import_tokens(mesh: mtf.Mesh, ids: np.ndarray, outer: int = 0) -> mtf.Tensor:
    """Token ids as [batch, length], or [outer_batch, batch, length] if `outer` is given."""
    batch, length = ids.shape
    dims = [mtf.Dimension("batch", batch // (outer or 1)), mtf.Dimension("length", length)]
    if outer:
        dims.insert(0, mtf.Dimension("outer_batch", outer))
    shape = mtf.Shape(dims)
    return mtf.import_fully_replicated(mesh, tf.constant(ids.reshape(shape.to_integer_list)), shape)


def bitransformer(mesh_shape: str, layout: str):
    """An encoder-decoder as gin describes it."""
    return transformer.make_bitransformer(
        input_vocab_size=VOCAB, output_vocab_size=VOCAB, mesh_shape=mesh_shape, layout=layout
    )


def lower(build, mesh_shape: str = "", layout: str = "") -> Built:
    """Builds with `build(mesh) -> {name: mtf.Tensor}` in a new graph and lowers it."""
    tf.reset_default_graph()
    graph = mtf.Graph()
    mesh = mtf.Mesh(graph, "mesh")
    tensors = build(mesh)
    tensors = {name: mtf.anonymize(tensor) for name, tensor in tensors.items()}
    lowering = meshes.lower(mesh, mesh_shape, layout, autostack=False)
    values = {name: lowering.export_to_tf_tensor(tensor) for name, tensor in tensors.items()}
    return Built(values, graph, lowering)


def weights(graph: mtf.Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights for the variables of a graph, the same for the same names."""
    made = {}
    for variable in sorted(graph.all_variables, key=lambda variable: variable.name):
        shape = variable.shape.to_integer_list
        rng = np.random.RandomState(seed + sum(map(ord, variable.name)))
        fan_in = shape[-2] if len(shape) > 1 else 1
        # Scales stay near one, so that layers see inputs of ordinary size.
        offset = 1.0 if variable.name.endswith("scale") else 0.0
        made[variable.name] = (offset + rng.randn(*shape) / np.sqrt(fan_in)).astype(np.float32)
    return made


def run(built: Built, seed: int = 0) -> dict[str, np.ndarray]:
    """Sets the weights and fetches everything once."""
    made = weights(built.graph, seed)
    # Optimizing such a graph takes far longer than running it once.
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            if variable.op.name in made:
                variable.load(made[variable.op.name], session)
        session.run(built.lowering.copy_masters_to_slices())
        return session.run(built.values)


def training(
    mesh: mtf.Mesh,
    mesh_shape: str,
    layout: str,
    targets: np.ndarray = None,
    mode: str = "train",
    outer: int = 2,
) -> dict[str, mtf.Tensor]:
    """Loss, logits, gradients and the layers' sums of an encoder-decoder."""
    model = bitransformer(mesh_shape, layout)
    targets = tokens(2) if targets is None else targets
    with metric_collection.collecting() as records:
        logits, loss = model.call_simple(
            import_tokens(mesh, tokens(1), outer),
            import_tokens(mesh, targets, outer),
            compute_loss=True,
            mode=mode,
            num_microbatches=1,
        )
    out = {"loss": loss, "logits": logits}
    variables = mesh.graph.trainable_variables
    gradients = mtf.gradients([loss], [variable.outputs[0] for variable in variables])
    out.update({f"gradient {v.name}": g for v, g in zip(variables, gradients)})
    for record in records:
        out.update({f"{record.name}/{key}": value for key, value in record.sums.items()})
    return out


def weighted_losses(values: dict[str, np.ndarray]) -> float:
    """What all layers add to the loss, from their sums; see `hmoe.layer.metrics.loss_sums`."""
    rows = [
        row
        for name, value in values.items()
        if name.endswith("/losses")
        for row in value.reshape(-1, 3)
    ]
    return sum(loss / tokens * factor / tokens for loss, tokens, factor in rows)
