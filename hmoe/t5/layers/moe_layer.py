"""The mixture of experts as a layer of a T5."""

from __future__ import annotations

from mesh_tensorflow.transformer import transformer

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.config import Setting
from hmoe.layer.moe import HierarchicalMoE
from hmoe.t5.layers import kept_layers, metric_collection, replayed_choices

# Passes of the decoder that see one position at a time, or only the first positions.
_DECODING = ("first_part", "incremental")

# Modes in which capacity applies. In all others (answers, scores) nothing is dropped.
_DROPPING = ("train", "eval")

_MOE = Setting(
    doc="The mixture of experts that the layer applies.",
    unit="object",
    source="hmoe",
    check=checks.part(
        "hmoe.HierarchicalMoE(levels=..., experts=...)",
        lambda value: isinstance(value, HierarchicalMoE),
    ),
)


def checked_moe(where: str, moe: object, moved: dict[str, object]) -> HierarchicalMoE:
    """Returns the mixture of a layer.

    Args:
      where: the class of the layer, for errors.
      moe: the argument of that name.
      moved: other arguments; those of `hmoe.HierarchicalMoE` were the layer's own once.

    Raises:
      ValueError: an argument belongs to `hmoe.HierarchicalMoE`, or there is no mixture.
      TypeError: an argument is unknown.
    """
    for name in moved:
        if name not in HierarchicalMoE.__dataclass_fields__:
            raise TypeError(f"hmoe.{where} has no argument {name!r}")
        raise ValueError(
            f"hmoe.{where}.{name}: {name} is an argument of hmoe.HierarchicalMoE; in gin, write"
            f" hmoe.HierarchicalMoE.{name} = ... in its place, and"
            f" hmoe.{where}.moe = @hmoe.HierarchicalMoE()"
        )
    return _MOE.check(f"hmoe.{where}", "moe", moe)


class MoELayer(transformer.TransformerLayer):
    """Replaces the feed-forward layer of a T5.

    Losses join the training loss; metric sums go to `hmoe.t5.layers.metric_collection`. In
    predicting, exporting and scoring no token is dropped and none is routed together with those of
    other examples, so that neither an answer nor a score depends on its neighbors, other beams or
    padding, and a score is that of the distribution that decoding uses.
    """

    arguments = {"moe": _MOE}

    # Whether experts are given the tokens of the layer's own stack.
    routes_own_tokens = True

    def __init__(self, moe: HierarchicalMoE | None = None, **moved: object):
        """Keeps the mixture.

        Args:
          moe: an `hmoe.HierarchicalMoE`.
          **moved: not accepted; for an argument of `hmoe.HierarchicalMoE` the error names its new
            spelling.

        Raises:
          ValueError: there is no mixture, or an argument belongs to it.
          TypeError: an argument is unknown.
        """
        self.moe = checked_moe("MoELayer", moe, moved)
        if self.moe.num_outputs > 1:
            raise ValueError(
                f"hmoe.MoELayer: the experts have {self.moe.num_outputs} outputs"
                f" (hmoe.FeedForwardExperts.output_names = {list(self.moe.experts.output_names)}),"
                " but the layer adds one to each token; leave output_names out. Attention with"
                " experts (hmoe.ExpertsSelfAttention) names the outputs that it needs by itself"
            )

    def replace_moe(self, moe: HierarchicalMoE) -> None:
        """Takes another mixture."""
        self.moe = moe

    def call(
        self, context: transformer.Context, x: mtf.Tensor, losses: object = None
    ) -> mtf.Tensor:
        """Applies the mixture: [<batch dimensions>, (length), d_model] -> the same shape.

        Args:
          context: the transformer's context, with mesh, layout, mode and padding.
          x: activations.
          losses: unused; part of T5's interface.

        Raises:
          ValueError: the model has an ensemble or recomputes gradients, or mesh and sizes do not
            fit.
        """
        del losses
        # The scope ends with the name of this class.
        name = tf.get_variable_scope().name.rpartition("/")[0]
        return apply(self.moe, context, x, context.model.model_dim, name)


def apply(
    moe: HierarchicalMoE,
    context: transformer.Context,
    x: mtf.Tensor,
    output_dim: mtf.Dimension,
    name: str,
    *,
    importance: mtf.Tensor | None = None,
    where: str = "MoELayer",
) -> mtf.Tensor | list[mtf.Tensor]:
    """Applies a mixture inside a layer of a T5, and hands on its losses and sums.

    Args:
      moe: the mixture.
      context: the transformer's context, with mesh, layout, mode, padding and word embeddings.
      x: activations [<batch dimensions>, (length), d_model].
      output_dim: N.
      name: the name of the layer, for its metrics.
      importance: the importance of the tokens of `x` where these are the encoder's. None: they are
        the stack's own, and the context knows their padding.
      where: the class of the layer, for errors.

    Returns:
      The outputs [<batch dimensions>, (length), N]; a list of such if the experts have several
      outputs.

    Raises:
      ValueError: the model has an ensemble or recomputes gradients, a router does not suit a
        decoder, word embeddings of the encoder are asked for, or mesh and sizes do not fit.
    """
    _refuse_unsupported(context, where)
    of_encoder = importance is not None
    causal = not of_encoder and context.model.autoregressive
    if importance is None:
        refuse_routers_that_look_ahead(context.model, moe)
        importance = _importance(context, x)
    elif moe.uses_embeddings:
        raise ValueError(
            f"hmoe.{where}: a gate asks for word embeddings (hmoe.Gate.word_embeddings), but a"
            " decoder has none of the encoder's tokens; use a gate without them, or"
            " expert_computation = 'q'"
        )
    result = moe(
        x,
        output_dim,
        train=context.train,
        importance=importance,
        embeddings=context.input_embeddings if moe.uses_embeddings else None,
        mesh_shape=context.model.mesh_shape,
        layout=context.model.layout,
        variable_dtype=context.variable_dtype,
        num_microbatches=context.num_microbatches,
        drop_tokens=context.mode in _DROPPING,
        causal=causal,
        kept_experts=kept_layers.of_layer(name, x.mesh, moe.levels),
        replay=replayed_choices.of_layer(name, moe, x),
    )
    if context.losses is not None:
        context.losses.append(mtf.cast(result.loss, context.activation_dtype))
    sizes = (x.shape.dims[-1].size, output_dim.size)
    call = metric_collection.LayerCall(moe, result.routed, *sizes, of_encoder)
    metric_collection.record(name, result.metrics, result.loss, result.bias_updates, call)
    return result.outputs


def _refuse_unsupported(context: transformer.Context, where: str) -> None:
    if context.model.ensemble_dim:
        raise ValueError(
            f"hmoe.{where}: the model is an ensemble (transformer.Unitransformer.ensemble ="
            f" {context.model.ensemble_dim.size}); experts of ensembles are not supported: set it"
            " to None"
        )
    stack = getattr(context.model, "layer_stack", None)
    if getattr(stack, "_recompute_grads", False):
        raise ValueError(
            f"hmoe.{where}: transformer.LayerStack.recompute_grads is True, with which no layer can"
            " add a loss; set it to False. To save memory raise the number of microbatches"
            " (serialize_num_microbatches.tokens_per_microbatch_per_replica)"
        )


def refuse_routers_that_look_ahead(model: transformer.Unitransformer, moe: HierarchicalMoE) -> None:
    """Raises ValueError if a decoder has a router that sees later tokens."""
    if not model.autoregressive:
        return
    for level in moe.levels:
        if level.router.sees_later_tokens:
            raise ValueError(
                f"level '{level.name}': {type(level.router).__name__} in a decoder, where experts"
                " would choose among tokens of which decoding knows only the first: the model would"
                " train on what it cannot have later. Use a router where tokens choose"
                " (hmoe.TopKRouter) in the decoder, or set allow_in_decoder = True if that is meant"
            )


def _importance(context: transformer.Context, x: mtf.Tensor) -> mtf.Tensor | None:
    """Returns float32 for each token, 0 for padding; None where all tokens are real."""
    nonpadding = context.nonpadding
    if isinstance(nonpadding, mtf.Tensor):
        dims = [dim for dim in x.shape.dims[:-1] if dim in nonpadding.shape.dims]
        known = len(dims) == len(nonpadding.shape.dims)
        return mtf.cast(nonpadding, tf.float32) if known else None
    is_whole_decoder = context.model.autoregressive and context.length_dim in x.shape.dims
    if is_whole_decoder and context.inputs is not None and context.mode not in _DECODING:
        return _mask_of_shifted(context.inputs, context.length_dim)
    return None


def _mask_of_shifted(inputs: mtf.Tensor, length_dim: mtf.Dimension) -> mtf.Tensor:
    """Returns float32, 0 where the target is padding, from the targets shifted right by one.

    T5 gives an unpacked decoder no mask. The last target is not among its inputs; it counts as real
    if the one before it is.
    """
    real = mtf.cast(mtf.not_equal(inputs, 0), tf.float32)
    following = mtf.shift(real, -1, length_dim, wrap=False)
    last = mtf.cast(
        mtf.equal(mtf.range(inputs.mesh, length_dim, tf.int32), length_dim.size - 1), tf.float32
    )
    return mtf.maximum(following, real * last)
