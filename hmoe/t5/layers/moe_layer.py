"""The mixture of experts as a layer of a T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh_tensorflow.transformer import transformer

from hmoe.compat.stack import mtf, tf
from hmoe.experts.feed_forward import FeedForwardExperts, SharedExpert
from hmoe.layer.level import Level
from hmoe.layer.moe import HierarchicalMoE
from hmoe.t5.layers import metric_collection

# The decoder's passes that see one position at a time, or the first ones of all.
_DECODING = ("first_part", "incremental")

# Where capacity counts. In all other modes (answers, scores) nothing is dropped.
_DROPPING = ("train", "eval")


class MoELayer(transformer.TransformerLayer):
    """Stands where a T5 has its feed-forward layer.

    Losses join the training loss; sums for metrics go to `hmoe.t5.layers.metric_collection`. In
    predicting, exporting and scoring no token is dropped and none is routed together with
    those of other examples, so that neither an answer nor a score depends on its
    neighbours, other beams or padding, and a score is that of the distribution that
    decoding uses.
    """

    # Whether experts are given the tokens of the stack that the layer stands in.
    routes_own_tokens = True

    def __init__(
        self,
        *,
        levels: Sequence[Level],
        experts: FeedForwardExperts,
        shared_expert: SharedExpert | None = None,
        aux_loss_factor: float = 1.0,
        router_z_loss_factor: float = 1.0,
        exact_groups: bool = False,
        inserted_outer_batch: int | None = None,
        metrics: str = "brief",
        engine: str = "auto",
        seed: int = 0,
    ):
        """The arguments are those of `hmoe.HierarchicalMoE`.

        Raises:
          ValueError: as `hmoe.HierarchicalMoE` does.
        """
        self.moe = HierarchicalMoE(
            levels,
            experts,
            shared_expert=shared_expert,
            aux_loss_factor=aux_loss_factor,
            router_z_loss_factor=router_z_loss_factor,
            exact_groups=exact_groups,
            inserted_outer_batch=inserted_outer_batch,
            metrics=metrics,
            engine=engine,
            seed=seed,
        )

    def call(self, context: transformer.Context, x: mtf.Tensor, losses: Any = None) -> mtf.Tensor:
        """[<batch dimensions>, (length), d_model] -> the same shape.

        Args:
          context: of the transformer; gives mesh, layout, mode and padding.
          x: activations.
          losses: unused; part of T5's interface.

        Returns:
          The outputs of the experts.

        Raises:
          ValueError: the model has an ensemble or recomputes gradients, or mesh and
            sizes do not fit.
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
) -> Any:
    """Applies a mixture inside a layer of a T5, and hands on its losses and sums.

    Args:
      moe: the mixture.
      context: of the transformer; gives mesh, layout, mode, padding and word embeddings.
      x: activations [<batch dimensions>, (length), d_model].
      output_dim: N.
      name: of the layer, for its metrics.
      importance: of the tokens of `x` where these are the encoder's; None: they are the
        stack's own, and the context knows their padding.
      where: class of the layer, for errors.

    Returns:
      The outputs [<batch dimensions>, (length), N]; a list of such if the experts have
      several outputs.

    Raises:
      ValueError: the model has an ensemble or recomputes gradients, a router does not
        suit a decoder, word embeddings of the encoder are asked for, or mesh and sizes do
        not fit.
    """
    _refuse_unsupported(context, where)
    causal = importance is None and context.model.autoregressive
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
    )
    if context.losses is not None:
        context.losses.append(mtf.cast(result.loss, context.activation_dtype))
    metric_collection.record(name, result.metrics, result.loss, result.bias_updates)
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


def refuse_routers_that_look_ahead(model: Any, moe: HierarchicalMoE) -> None:
    """Raises ValueError if a decoder has a router that sees later tokens."""
    if not model.autoregressive:
        return
    for level in moe.levels:
        if level.router.sees_later_tokens:
            raise ValueError(
                f"level '{level.name}': {level.router!r} in a decoder, where experts would choose"
                " among tokens of which decoding knows only the first: the model would train on"
                " what it cannot have later. Use a router where tokens choose (hmoe.TopKRouter) in"
                " the decoder, or set allow_in_decoder = True if that is meant"
            )


def _importance(context: transformer.Context, x: mtf.Tensor) -> mtf.Tensor | None:
    """float32 per token: 0 for padding; None where all tokens are real."""
    nonpadding = context.nonpadding
    if isinstance(nonpadding, mtf.Tensor):
        dims = [dim for dim in x.shape.dims[:-1] if dim in nonpadding.shape.dims]
        known = len(dims) == len(nonpadding.shape.dims)
        return mtf.cast(nonpadding, tf.float32) if known else None
    if (
        context.model.autoregressive
        and context.length_dim in x.shape.dims
        and (context.inputs is not None and context.mode not in _DECODING)
    ):
        return _mask_of_shifted(context.inputs, context.length_dim)
    return None


def _mask_of_shifted(inputs: mtf.Tensor, length_dim: mtf.Dimension) -> mtf.Tensor:
    """float32, 0 where the target is padding, from the targets shifted right by one.

    T5 gives an unpacked decoder no mask. The last target is not among its inputs; it
    counts as real if the one before it is.
    """
    real = mtf.cast(mtf.not_equal(inputs, 0), tf.float32)
    following = mtf.shift(real, -1, length_dim, wrap=False)
    last = mtf.cast(
        mtf.equal(mtf.range(inputs.mesh, length_dim, tf.int32), length_dim.size - 1), tf.float32
    )
    return mtf.maximum(following, real * last)
