"""The gate: scores every expert for every token."""

from __future__ import annotations

import dataclasses

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.config import Configuration, choice, configuration, setting, switch
from hmoe.mesh.layout import tensor_order
from hmoe.mesh.randomness import RandomSource
from hmoe.routing.context import RoutingContext
from hmoe.routing.scores import EXCLUDED, Scores, sample_expert

FUNCTIONS = ("softmax", "sigmoid")
EMBEDDING_MODES = (
    "concat",
    "concat_stop_grad",
    "add",
    "add_stop_grad",
    "embed_only",
    "embed_only_stop_grad",
)

# Keeps a sigmoid above 0, so that weights can be divided by their sum (OLMo-core).
_SIGMOID_FLOOR = 1e-7


@configuration()
class Gate(Configuration):
    """Scores experts for tokens with a linear layer and a function, in float32."""

    function: str = choice(
        "softmax",
        FUNCTIONS,
        doc='"softmax" over the experts, or "sigmoid" of each logit (plus 1e-7).',
        source="Shazeer 2017; DeepSeek-V3; OLMo-core `gating_function`",
    )
    jitter: float = setting(
        0.0,
        doc="In training, inputs are multiplied by random numbers from 1 - jitter to 1 + jitter.",
        unit="share, 0 to 1",
        source="Switch, section 2.2; Mesh TensorFlow `switch_jitter`; OLMo-core `jitter_eps`",
        check=checks.fraction,
    )
    input_dropout: float = setting(
        0.0,
        doc="Share of the inputs that is dropped in training.",
        unit="share, 0 to 1",
        source="Switch, section 2.2; Mesh TensorFlow `switch_dropout`",
        check=checks.fraction,
    )
    use_bias: bool = switch(
        False, doc="Whether the logit of each expert has a bias.", source="TF Model Garden"
    )
    kernel_stddev: float | None = setting(
        None,
        doc="""Standard deviation of the truncated normal distribution that kernels are initialized
        from. None: Mesh TensorFlow's own initializer.""",
        unit="deviation of the weights",
        source="TF Model Garden; OLMo-core",
        check=checks.optional(checks.positive_number),
    )
    word_embeddings: str | None = choice(
        None,
        EMBEDDING_MODES,
        doc="""How the embedding of a token's word joins its input: "concat" appends it, "add" adds
        it, "embed_only" replaces the input by it; with "_stop_grad" behind, embeddings get no
        gradient from the gate. None: not at all.""",
        source="Mesh TensorFlow `word_embed_mode`",
    )
    explore_probability: float = setting(
        0.0,
        doc="""In training, how often the best expert of a token is left out, so that the second
        takes its place.""",
        unit="probability",
        source="Mesh TensorFlow `use_second_place_expert_prob`",
        check=checks.probability,
    )
    explore_temperature: float | None = setting(
        None,
        doc="""Temperature at which an expert is sampled from the others when the best is left out.
        None: the second best is taken.""",
        unit="temperature",
        source="Mesh TensorFlow `use_second_place_expert_prob_temp`",
        check=checks.optional(checks.positive_number),
    )

    def check_together(self) -> None:
        """Raises ValueError for settings that leave out what others need."""
        if (self.word_embeddings or "").startswith("embed_only") and (
            self.jitter or self.input_dropout
        ):
            raise ValueError(
                f"{self.error_prefix()}: word_embeddings is {self.word_embeddings!r}, which leaves"
                f" out the inputs that jitter = {self.jitter} and input_dropout ="
                f" {self.input_dropout} disturb; set both to 0, or word_embeddings to 'add' or"
                " 'concat'"
            )
        if self.explore_temperature is not None and not self.explore_probability:
            raise ValueError(
                f"{self.error_prefix()}: explore_temperature is {self.explore_temperature!r}, but"
                " explore_probability is 0, so that nothing is explored; set it too, or"
                " explore_temperature to None"
            )

    def num_params(self, input_size: int, num_experts: int) -> int:
        """Returns the number of parameters of one gate for inputs of this depth."""
        concat = (self.word_embeddings or "").startswith("concat")
        return (input_size * (2 if concat else 1) + self.use_bias) * num_experts

    def __call__(
        self, tokens: mtf.Tensor, embeddings: mtf.Tensor | None, context: RoutingContext
    ) -> Scores:
        """Scores every expert for every token.

        Args:
          tokens: [..., S, M], with the experts of the levels above in front.
          embeddings: [..., S, M] of the tokens' words, if `word_embeddings` asks for them.
          context: names the experts, and the scope and types of the variables. The master type is
            used; everything else is float32.

        Returns:
          The scores. Creates `<scope>/kernel` [*outer experts, M, X], with 2 M rows for "concat",
          and `<scope>/bias` [*outer experts, X] if there is one.
        """
        inputs = mtf.cast(tokens, tf.float32)
        if context.train:
            inputs = self._disturb(inputs, context.random)
        logits = self._logits(self._join(inputs, embeddings), context)
        # One expert alone cannot be left out.
        if context.train and self.explore_probability and context.experts_dim.size > 1:
            logits += self._exclusions(logits, context)
        scores = self._scores(logits, tokens.shape.dims[-2], context.experts_dim)
        kept = context.kept_experts
        return scores if kept is None else self._among(scores, kept)

    def _among(self, scores: Scores, kept: mtf.Tensor) -> Scores:
        """Leaves probability to the experts that are kept, [outer experts ..., X], alone."""
        # [..., S, X] + [outer experts ..., X]
        logits = scores.logits + (1.0 - kept) * EXCLUDED
        among = self._scores(logits, scores.tokens_dim, scores.experts_dim)
        # A sigmoid would leave a little to the others.
        return dataclasses.replace(
            among, probabilities=among.probabilities * kept, kept_experts=kept
        )

    def _logits(self, inputs: mtf.Tensor, context: RoutingContext) -> mtf.Tensor:
        """[..., S, M] -> [..., S, X]."""
        initializer = self.kernel_stddev and tf.truncated_normal_initializer(
            stddev=self.kernel_stddev
        )
        master = context.variable_dtype.master_dtype
        return mtf.layers.dense(
            inputs,
            [context.experts_dim],
            reduced_dims=inputs.shape.dims[-1:],
            expert_dims=tensor_order(context.outer_expert_dims),
            use_bias=self.use_bias,
            kernel_initializer=initializer or None,
            name=context.variable_scope,
            variable_dtype=mtf.VariableDType(master, tf.float32, tf.float32),
        )

    def _scores(
        self, logits: mtf.Tensor, tokens_dim: mtf.Dimension, experts_dim: mtf.Dimension
    ) -> Scores:
        if self.function == "softmax":
            probabilities = mtf.softmax(logits, experts_dim)
            return Scores(logits, probabilities, probabilities, tokens_dim, experts_dim)
        probabilities = mtf.sigmoid(logits) + _SIGMOID_FLOOR
        shares = probabilities / mtf.reduce_sum(probabilities, reduced_dim=experts_dim)
        return Scores(logits, probabilities, shares, tokens_dim, experts_dim)

    def _disturb(self, inputs: mtf.Tensor, random: RandomSource) -> mtf.Tensor:
        if self.jitter:
            uniform = random.named("jitter").uniform(inputs.mesh, inputs.shape)
            inputs *= uniform * (2.0 * self.jitter) + (1.0 - self.jitter)
        return random.named("input_dropout").dropout(inputs, self.input_dropout)

    def _join(self, inputs: mtf.Tensor, embeddings: mtf.Tensor | None) -> mtf.Tensor:
        """Joins the inputs and the embeddings, both [..., S, M]; [..., S, 2 M] for "concat"."""
        mode = self.word_embeddings
        if mode is None:
            return inputs
        embeddings = mtf.cast(embeddings, tf.float32)
        if mode.endswith("_stop_grad"):
            embeddings = mtf.stop_gradient(embeddings)
        if mode.startswith("concat"):
            return mtf.concat([inputs, embeddings], inputs.shape.dims[-1].name)
        return inputs + embeddings if mode.startswith("add") else embeddings

    def _exclusions(self, logits: mtf.Tensor, context: RoutingContext) -> mtf.Tensor:
        """Returns [..., S, X], a large negative number where a token may not go, else 0."""
        experts_dim, random = context.experts_dim, context.random
        tokens = mtf.Shape(logits.shape.dims[:-1])
        drawn = random.named("explore").uniform(logits.mesh, tokens)
        explores = mtf.cast(mtf.less(drawn, self.explore_probability), tf.float32)
        # [..., S] -> [..., S, X]
        best = mtf.one_hot(mtf.argmax(logits, experts_dim), experts_dim, dtype=tf.float32)
        left_out = best
        if self.explore_temperature is not None:
            sampled = sample_expert(
                logits + best * EXCLUDED,
                experts_dim,
                self.explore_temperature,
                random.named("explore_sample"),
            )
            left_out = 1.0 - mtf.one_hot(sampled, experts_dim, dtype=tf.float32)
        return mtf.stop_gradient(explores * left_out * EXCLUDED)
