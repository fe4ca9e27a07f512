"""Attention of a T5 whose queries and keys come from experts.

Mesh TensorFlow 0.1.21 has layers of the same names, whose keys never see the memory that they are
keys of: each position of self-attention reads itself alone (keys keep the dimension of the
queries), decoding fails, and attention to the encoder never reads the encoder. Here they do; names
of variables and what the experts compute are the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mesh_tensorflow.transformer import attention, transformer, transformer_layers

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.config import Setting
from hmoe.experts.feed_forward import FeedForwardExperts
from hmoe.layer.moe import HierarchicalMoE
from hmoe.t5.layers import moe_layer

# What experts compute, and the names of the outputs where one mixture computes it.
_OUTPUTS = {"qkv": ("q_wo", "k_wo"), "q": ("wo",), "kv": ("wo",)}

_EXPERT_COMPUTATION = Setting(
    doc="""What experts compute: "qkv" (queries, and keys that are values), "q" or "kv". Ordinary
    projections compute the others.""",
    unit='one of `"qkv"`, `"q"`, `"kv"`',
    source="Mesh TensorFlow `expert_computation` of `ExpertsSelfAttention`",
    check=checks.one_of(tuple(_OUTPUTS)),
)


class ExpertsSelfAttention(transformer_layers.SelfAttention):
    """Self-attention whose queries, keys or both are outputs of experts.

    Keys are values too. One mixture computes both queries and keys of a token, from one hidden
    layer; the layer names its outputs. Losses, metrics and decoding are those of `hmoe.MoELayer`.
    Further arguments are those of `transformer_layers.SelfAttention`; bindings of that class in gin
    hold here too.
    """

    arguments = {**moe_layer.MoELayer.arguments, "expert_computation": _EXPERT_COMPUTATION}

    def __init__(
        self,
        moe: HierarchicalMoE | None = None,
        *,
        expert_computation: str = "qkv",
        **self_attention: Any,
    ):
        """Checks and keeps the arguments.

        Args:
          moe: an `hmoe.HierarchicalMoE` whose experts have no `output_names` of their own.
          expert_computation: "qkv", "q" or "kv".
          **self_attention: arguments of `transformer_layers.SelfAttention`.

        Raises:
          ValueError: there is no mixture, or an argument does not suit experts.
        """
        name = type(self).__name__
        where = f"hmoe.{name}"
        moved = {
            key: self_attention.pop(key)
            for key in HierarchicalMoE.__dataclass_fields__
            if key in self_attention
        }
        moe = moe_layer.checked_moe(name, moe, moved)
        super().__init__(**{"shared_kv": True, **self_attention})
        self._check(where)
        self.expert_computation = _EXPERT_COMPUTATION.check(
            where, "expert_computation", expert_computation
        )
        self.moe = _with_outputs(where, moe, self._output_names())

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
        """Returns the projections, for upstream's `call`."""
        return _SelfParams(self, context)

    @property
    def routes_own_tokens(self) -> bool:
        """Whether experts are given the tokens of the layer's own stack."""
        return True


_RELATIVE_ATTENTION_TYPE = Setting(
    doc="""How positions join the attention: "bias", "bias_shared" or "contextual". None: not at
    all, whatever gin binds to `SelfAttention`.""",
    unit='one of `"bias"`, `"bias_shared"`, `"contextual"`; or `None`',
    source="Mesh TensorFlow `relative_attention_type` of `EncDecAttention`",
    check=checks.optional(checks.one_of(("bias", "bias_shared", "contextual"))),
)


class ExpertsEncDecAttention(ExpertsSelfAttention):
    """Attention to the encoder whose queries, keys or both are outputs of experts.

    Queries come from the decoder, keys from the encoder's outputs. With "qkv" each has
    a mixture of its own, in the scopes `queries` and `keys`.
    """

    arguments = {
        **ExpertsSelfAttention.arguments,
        "relative_attention_type": _RELATIVE_ATTENTION_TYPE,
    }

    def __init__(
        self,
        moe: HierarchicalMoE | None = None,
        *,
        expert_computation: str = "qkv",
        relative_attention_type: str | None = None,
        **self_attention: Any,
    ):
        """Checks and keeps the arguments.

        Args:
          moe: see `ExpertsSelfAttention`.
          expert_computation: see `ExpertsSelfAttention`.
          relative_attention_type: "bias", "bias_shared", "contextual", or None.
          **self_attention: see `ExpertsSelfAttention`.

        Raises:
          ValueError: as `ExpertsSelfAttention` does.
        """
        super().__init__(
            moe,
            expert_computation=expert_computation,
            relative_attention_type=_RELATIVE_ATTENTION_TYPE.check(
                f"hmoe.{type(self).__name__}", "relative_attention_type", relative_attention_type
            ),
            **self_attention,
        )

    @property
    def routes_own_tokens(self) -> bool:
        """Whether queries come from experts: keys belong to the encoder's tokens."""
        return self.expert_computation != "kv"

    def _output_names(self) -> tuple:
        return ("wo",)

    def make_params(self, context: transformer.Context) -> attention.AttentionParams:
        """Returns the projections, for upstream's `enc_dec_attention`."""
        return _EncDecParams(self, context)

    def replace_moe(self, moe: HierarchicalMoE) -> None:
        """Takes another mixture."""
        self.moe = moe

    def call(
        self, context: transformer.Context, x: mtf.Tensor, losses: object = None
    ) -> mtf.Tensor:
        """Attends to the encoder: [<batch dimensions>, (length), d_model] -> the same shape."""
        return transformer_layers.enc_dec_attention(
            self, context.encoder_output, context, x, losses, z_loss_coeff=self.z_loss_coeff
        )


class _ExpertParams(attention.AttentionParams):
    """Projections of attention, some of which experts compute."""

    def __init__(self, owner: ExpertsSelfAttention, context: transformer.Context):
        model_dim = context.model.model_dim
        heads = [mtf.Dimension("heads", owner.num_heads)] if owner.num_heads > 1 else []
        # Queries are scaled here and not by their initial weights, since those of experts are not.
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

    def _experts(
        self, x: mtf.Tensor, scope: str = "", importance: mtf.Tensor | None = None
    ) -> mtf.Tensor:
        """Applies experts: [..., d_model] -> [..., heads * d_kv], or a list of several outputs."""
        name = tf.get_variable_scope().name.rpartition("/")[0]
        # Not the name of the heads: a layout may split those and the experts' hidden dimension
        # over one axis.
        output_dim = mtf.Dimension("d_model", self.q_shape[-1].size)
        where = type(self._owner).__name__
        if not scope:
            return moe_layer.apply(
                self._owner.moe,
                self._context,
                x,
                output_dim,
                name,
                where=where,
                importance=importance,
            )
        with tf.variable_scope(scope):
            return moe_layer.apply(
                self._owner.moe,
                self._context,
                x,
                output_dim,
                f"{name}/{scope}",
                where=where,
                importance=importance,
            )

    def _queries(self, outputs: mtf.Tensor) -> mtf.Tensor:
        return self._into_heads(outputs) * self.key_dim.size**-0.5

    def _into_heads(self, outputs: mtf.Tensor) -> mtf.Tensor:
        """Reshapes [..., heads * d_kv] -> [..., heads, d_kv]."""
        leading = outputs.shape.dims[:-1]
        # One reshape either splits a dimension over the mesh or factors it.
        outputs = mtf.reshape(outputs, mtf.Shape([*leading, self.q_shape[-1]]))
        return mtf.replace_dimensions(outputs, outputs.shape.dims[-1], self.q_dims)


class _SelfParams(_ExpertParams):
    """Queries and keys of the same tokens, which the experts compute at once."""

    _keys: mtf.Tensor

    def compute_q(self, query_antecedent: mtf.Tensor) -> mtf.Tensor:
        """Projects [..., length, d_model] -> [..., length, heads, d_kv]; keeps keys of experts."""
        if self._by_experts == "q":
            return self._queries(self._experts(query_antecedent))
        if self._by_experts == "kv":
            self._keys = self._experts(query_antecedent)
            return super().compute_q(query_antecedent)
        queries, self._keys = self._experts(query_antecedent)
        return self._queries(queries)

    def compute_kv(self, memory_antecedent: mtf.Tensor) -> mtf.Tensor:
        """Projects [..., (memory_length), d_model] -> [..., (memory_length), heads, d_kv]."""
        if self._by_experts == "q":
            return super().compute_kv(memory_antecedent)
        leading = memory_antecedent.shape.dims[:-1]
        # The antecedent is that of the queries, with its length called memory_length.
        keys = mtf.reshape(self._keys, mtf.Shape([*leading, self._keys.shape.dims[-1]]))
        return self._into_heads(keys)


class _EncDecParams(_ExpertParams):
    """Queries of the decoder's tokens, keys of the encoder's."""

    def compute_q(self, query_antecedent: mtf.Tensor) -> mtf.Tensor:
        """Projects [..., length, d_model] -> [..., length, heads, d_kv]."""
        if self._by_experts == "kv":
            return super().compute_q(query_antecedent)
        return self._queries(self._experts(query_antecedent, self._scope("queries")))

    def compute_kv(self, memory_antecedent: mtf.Tensor) -> mtf.Tensor:
        """Projects [..., memory_length, d_model] -> [..., memory_length, heads, d_kv]."""
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


def _with_outputs(where: str, moe: HierarchicalMoE, names: tuple[str, ...]) -> HierarchicalMoE:
    """Returns the mixture with experts whose outputs have these names."""
    if not isinstance(moe.experts, FeedForwardExperts):
        raise ValueError(
            f"{where}: the experts are {moe.experts!r}; only hmoe.FeedForwardExperts can have the"
            " outputs that this layer needs"
        )
    given = tuple(moe.experts.output_names)
    if given not in (("wo",), names):
        raise ValueError(
            f"{where}: the experts have output_names {list(given)}; this layer names their outputs:"
            " leave it out"
        )
    experts = moe.experts.with_outputs(names)
    return dataclasses.replace(moe, experts=experts)
