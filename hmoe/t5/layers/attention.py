"""Attention of a T5 whose queries and keys come from experts.

Mesh TensorFlow 0.1.21 has layers of the same names. There, keys never see the memory they
are to be keys of: each position of self-attention reads itself alone (keys keep the
dimension of the queries), decoding fails, and attention to the encoder never reads the
encoder. Here they do; names of variables and what the experts compute are as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh_tensorflow.transformer import attention, transformer, transformer_layers

from hmoe.compat.stack import mtf, tf
from hmoe.experts.feed_forward import FeedForwardExperts
from hmoe.layer.level import Level
from hmoe.layer.moe import HierarchicalMoE
from hmoe.t5.layers import moe_layer

# What experts compute, and the names of the outputs where that is one mixture.
_OUTPUTS = {"qkv": ("q_wo", "k_wo"), "q": ("wo",), "kv": ("wo",)}


class ExpertsSelfAttention(transformer_layers.SelfAttention):
    """Self-attention whose queries, keys or both are outputs of experts.

    Keys are values too. One mixture gives both queries and keys of a token, from one
    hidden layer. Losses, metrics and decoding are those of `hmoe.MoELayer`.
    """

    def __init__(
        self,
        *,
        levels: Sequence[Level],
        experts: FeedForwardExperts,
        expert_computation: str = "qkv",
        aux_loss_factor: float = 1.0,
        router_z_loss_factor: float = 1.0,
        exact_groups: bool = False,
        inserted_outer_batch: int | None = None,
        metrics: str = "brief",
        engine: str = "auto",
        seed: int = 0,
        **self_attention: Any,
    ):
        """Checks and keeps the settings.

        Args:
          levels: as of `hmoe.HierarchicalMoE`, like the arguments not told here.
          experts: `hmoe.FeedForwardExperts`; this layer names their outputs.
          expert_computation: "qkv" (queries, and keys that are values), "q" or "kv"; the
            others are ordinary projections.
          aux_loss_factor: see `levels`.
          router_z_loss_factor: see `levels`.
          exact_groups: see `levels`.
          inserted_outer_batch: see `levels`.
          metrics: see `levels`.
          engine: see `levels`.
          seed: see `levels`.
          **self_attention: arguments of `transformer_layers.SelfAttention`. What gin binds
            to that class holds here too, which is why they are not listed.

        Raises:
          ValueError: a setting that is unknown, or that experts cannot compute.
        """
        super().__init__(**{"shared_kv": True, **self_attention})
        where = f"hmoe.{type(self).__name__}"
        self._check(where)
        if expert_computation not in _OUTPUTS:
            raise ValueError(
                f"{where}: expert_computation is {expert_computation!r}; it must be"
                f" one of {', '.join(_OUTPUTS)}"
            )
        self.expert_computation = expert_computation
        self.moe = HierarchicalMoE(
            levels,
            _with_outputs(where, experts, self._output_names()),
            aux_loss_factor=aux_loss_factor,
            router_z_loss_factor=router_z_loss_factor,
            exact_groups=exact_groups,
            inserted_outer_batch=inserted_outer_batch,
            metrics=metrics,
            engine=engine,
            seed=seed,
        )

    def _check(self, where: str) -> None:
        wanted = {
            "shared_kv": True,
            "combine_dims": True,
            "keep_query_heads_dims": False,
            "num_memory_heads": 0,
        }
        for field, value in wanted.items():
            if getattr(self, field) != value:
                raise ValueError(
                    f"{where}: {field} is {getattr(self, field)!r}; experts give one"
                    f" key a head, which is its value too: leave it at {value}"
                )

    def _output_names(self) -> tuple:
        return _OUTPUTS[self.expert_computation]

    def make_params(self, context: transformer.Context) -> attention.AttentionParams:
        """The projections, for upstream's `call`."""
        return _SelfParams(self, context)

    @property
    def routes_own_tokens(self) -> bool:
        """Whether experts are given the tokens of the stack that the layer stands in."""
        return True


class ExpertsEncDecAttention(ExpertsSelfAttention):
    """Attention to the encoder whose queries, keys or both are outputs of experts.

    Queries come from the decoder, keys from the encoder's outputs. With "qkv" each has
    a mixture of its own, in the scopes `queries` and `keys`.
    """

    def __init__(self, relative_attention_type: str | None = None, **settings: Any):
        """Checks and keeps the settings.

        Args:
          relative_attention_type: of positions: "bias", "bias_shared", "contextual", or None:
            none, whatever gin binds to `SelfAttention`.
          **settings: the other arguments of `ExpertsSelfAttention`.

        Raises:
          ValueError: as `ExpertsSelfAttention` does.
        """
        super().__init__(relative_attention_type=relative_attention_type, **settings)

    @property
    def routes_own_tokens(self) -> bool:
        """Keys are of the encoder's tokens."""
        return self.expert_computation != "kv"

    def _output_names(self) -> tuple:
        return ("wo",)

    def make_params(self, context: transformer.Context) -> attention.AttentionParams:
        """The projections, for upstream's `enc_dec_attention`."""
        return _EncDecParams(self, context)

    def call(self, context: transformer.Context, x: mtf.Tensor, losses: Any = None) -> mtf.Tensor:
        """[<batch dimensions>, (length), d_model] -> the same shape."""
        return transformer_layers.enc_dec_attention(
            self, context.encoder_output, context, x, losses, z_loss_coeff=self.z_loss_coeff
        )


class _ExpertParams(attention.AttentionParams):
    """Projections of attention, of which experts compute some."""

    def __init__(self, owner: ExpertsSelfAttention, context: transformer.Context):
        model_dim = context.model.model_dim
        heads = [mtf.Dimension("heads", owner.num_heads)] if owner.num_heads > 1 else []
        # Queries are scaled here and not in initial weights, which those of experts have not.
        super().__init__(
            context.mesh,
            query_input_dim=model_dim,
            memory_input_dim=model_dim,
            output_dim=model_dim,
            key_dim=owner.kv_dim,
            value_dim=owner.kv_dim,
            query_heads_dims=heads,
            memory_heads_dims=heads,
            variable_dtype=context.variable_dtype,
            shared_kv=True,
            fold_scaling_into_initializer=False,
            make_attention_vars=False,
        )
        self._owner, self._context = owner, context
        self._by_experts = owner.expert_computation
        if self._by_experts == "kv":
            self.wq = self._projection("q", self.q_shape)
        if self._by_experts == "q":
            self.wkv = self._projection("kv", self.k_shape)

    def _projection(self, name: str, shape: list[mtf.Dimension]) -> mtf.Tensor:
        return mtf.get_variable(
            self.mesh,
            name,
            mtf.Shape(shape),
            dtype=self.variable_dtype,
            initializer=tf.random_normal_initializer(stddev=shape[0].size ** -0.5),
        )

    def _experts(self, x: mtf.Tensor, scope: str = "", **more: Any) -> Any:
        """[..., d_model] -> [..., heads * d_kv], or a list of several outputs."""
        name = tf.get_variable_scope().name.rpartition("/")[0]
        # Not called as the heads are: a layout may split those and the experts' hidden
        # dimension over one axis.
        output_dim = mtf.Dimension("d_model", self.q_shape[-1].size)
        where = type(self._owner).__name__
        if not scope:
            return moe_layer.apply(
                self._owner.moe, self._context, x, output_dim, name, where=where, **more
            )
        with tf.variable_scope(scope):
            return moe_layer.apply(
                self._owner.moe,
                self._context,
                x,
                output_dim,
                f"{name}/{scope}",
                where=where,
                **more,
            )

    def _queries(self, outputs: mtf.Tensor) -> mtf.Tensor:
        return self._into_heads(outputs) * self.key_dim.size**-0.5

    def _into_heads(self, outputs: mtf.Tensor) -> mtf.Tensor:
        """[..., heads * d_kv] -> [..., heads, d_kv]."""
        leading = outputs.shape.dims[:-1]
        # One reshape either splits a dimension over the mesh or factors it.
        outputs = mtf.reshape(outputs, mtf.Shape([*leading, self.q_shape[-1]]))
        return mtf.replace_dimensions(outputs, outputs.shape.dims[-1], self.q_dims)


class _SelfParams(_ExpertParams):
    """Queries and keys of the same tokens: the experts compute both at once."""

    _keys: mtf.Tensor

    def compute_q(self, query_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[..., length, d_model] -> [..., length, heads, d_kv]; remembers keys of experts."""
        if self._by_experts == "q":
            return self._queries(self._experts(query_antecedent))
        if self._by_experts == "kv":
            self._keys = self._experts(query_antecedent)
            return super().compute_q(query_antecedent)
        queries, self._keys = self._experts(query_antecedent)
        return self._queries(queries)

    def compute_kv(self, memory_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[..., (memory_length), d_model] -> [..., (memory_length), heads, d_kv]."""
        if self._by_experts == "q":
            return super().compute_kv(memory_antecedent)
        leading = memory_antecedent.shape.dims[:-1]
        # The antecedent is that of the queries, with the length called memory_length.
        keys = mtf.reshape(self._keys, mtf.Shape([*leading, self._keys.shape.dims[-1]]))
        return self._into_heads(keys)


class _EncDecParams(_ExpertParams):
    """Queries of the decoder's tokens, keys of the encoder's."""

    def compute_q(self, query_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[..., length, d_model] -> [..., length, heads, d_kv]."""
        if self._by_experts == "kv":
            return super().compute_q(query_antecedent)
        return self._queries(self._experts(query_antecedent, self._scope("queries")))

    def compute_kv(self, memory_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[..., memory_length, d_model] -> [..., memory_length, heads, d_kv]."""
        if self._by_experts == "q":
            return super().compute_kv(memory_antecedent)
        known = self._context.encoder_sequence_id
        importance = mtf.ones(
            memory_antecedent.mesh, mtf.Shape(memory_antecedent.shape.dims[:-1]), dtype=tf.float32
        )
        if isinstance(known, mtf.Tensor):
            importance *= mtf.cast(mtf.not_equal(known, 0), tf.float32)
        return self._into_heads(
            self._experts(memory_antecedent, self._scope("keys"), importance=importance)
        )

    def _scope(self, part: str) -> str:
        return part if self._by_experts == "qkv" else ""


def _with_outputs(where: str, experts: Any, names: tuple) -> FeedForwardExperts:
    if not isinstance(experts, FeedForwardExperts):
        raise ValueError(
            f"{where}: experts is {experts!r}; it must be an object such as"
            " hmoe.FeedForwardExperts(hidden_size=2048) (in gin:"
            " @hmoe.FeedForwardExperts(), with the brackets)"
        )
    if experts.output_names not in (("wo",), names):
        raise ValueError(
            f"{where}: experts have output_names {list(experts.output_names)}; this"
            " layer names their outputs: leave it out"
        )
    return experts.with_outputs(names)
