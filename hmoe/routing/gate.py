"""The gate: what every router's scores are made of."""

from __future__ import annotations

import dataclasses

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.mesh.local_ops import softmax
from hmoe.mesh.randomness import RandomSource

FUNCTIONS = ("softmax", "sigmoid")
EMBEDDING_MODES = (
    "concat",
    "concat_stop_grad",
    "add",
    "add_stop_grad",
    "embed_only",
    "embed_only_stop_grad",
)

# Added to a logit, it leaves no probability.
EXCLUDED = -1e9

# Keeps a sigmoid above 0, so that weights can be divided by their sum (OLMo-core).
_SIGMOID_FLOOR = 1e-7


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a router thinks of each expert, in float32.

    Attributes:
      logits: [..., S, X].
      probabilities: [..., S, X], the gate function of the logits; weights are made of
        them.
      shares: [..., S, X], the probabilities divided by their sum over X; losses
        balance them.
      tokens_dim: S, the tokens of a group.
      experts_dim: X, the experts (by the name that no layout rule splits).
      balance_bias: [*outer experts, X], added to the probabilities to choose by, but
        not to weigh by; None where the router has none.
      bias_update_rate: how far that bias moves in a step.
    """

    logits: mtf.Tensor
    probabilities: mtf.Tensor
    shares: mtf.Tensor
    tokens_dim: mtf.Dimension
    experts_dim: mtf.Dimension
    balance_bias: mtf.Tensor | None = None
    bias_update_rate: float = 0.0

    @property
    def preferences(self) -> mtf.Tensor:
        """[..., S, X]: what to choose by; the higher the better."""
        if self.balance_bias is None:
            return self.probabilities
        return self.probabilities + self.balance_bias


class Gate:
    """Scores experts for tokens: a linear layer and a function, in float32.

    Attributes:
      function: "softmax" over the experts, or "sigmoid" of each (plus 1e-7).
      jitter: in training inputs are multiplied by numbers in 1 - jitter to 1 + jitter
        (Switch Transformer, section 2.2).
      input_dropout: share of the inputs dropped in training.
      use_bias: whether each expert has a bias in its logit.
      kernel_stddev: standard deviation of the truncated normal that kernels start
        from; None: Mesh TensorFlow's own initialiser.
      word_embeddings: how the embedding of the token's word joins its input: "concat"
        beside it, "add" to it, or "embed_only" in its place; with "_stop_grad" after
        it, the embeddings get no gradient from here. None: not at all.
      explore_probability: in training, how often the best expert is left out, so that
        the second is taken.
      explore_temperature: of sampling among the others when the best is left out; None
        takes the second.
    """

    def __init__(
        self,
        *,
        function: str = "softmax",
        jitter: float = 0.0,
        input_dropout: float = 0.0,
        use_bias: bool = False,
        kernel_stddev: float | None = None,
        word_embeddings: str | None = None,
        explore_probability: float = 0.0,
        explore_temperature: float | None = None,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        where = "Gate"
        self.function = checks.one_of(where, "function", function, FUNCTIONS)
        self.jitter = checks.fraction(where, "jitter", jitter)
        self.input_dropout = checks.fraction(where, "input_dropout", input_dropout)
        self.use_bias = checks.boolean(where, "use_bias", use_bias)
        self.kernel_stddev = (
            None
            if kernel_stddev is None
            else (checks.positive_number(where, "kernel_stddev", kernel_stddev))
        )
        self.word_embeddings = (
            None
            if word_embeddings is None
            else (checks.one_of(where, "word_embeddings", word_embeddings, EMBEDDING_MODES))
        )
        self.explore_probability = checks.probability(
            where, "explore_probability", explore_probability
        )
        self.explore_temperature = (
            None
            if explore_temperature is None
            else (checks.positive_number(where, "explore_temperature", explore_temperature))
        )
        if (word_embeddings or "").startswith("embed_only") and (jitter or input_dropout):
            raise ValueError(
                f"{where}: word_embeddings is {word_embeddings!r}, which leaves out the inputs that"
                f" jitter = {jitter} and input_dropout = {input_dropout} disturb; set both to 0, or"
                " word_embeddings to 'add' or 'concat'"
            )
        if explore_temperature is not None and not self.explore_probability:
            raise ValueError(
                f"{where}: explore_temperature is {explore_temperature!r}, but explore_probability"
                " is 0, so that nothing is explored; set it too, or explore_temperature to None"
            )

    def num_params(self, input_size: int, num_experts: int) -> int:
        """Parameters of one such gate for inputs of this depth."""
        concat = (self.word_embeddings or "").startswith("concat")
        return (input_size * (2 if concat else 1) + self.use_bias) * num_experts

    def __call__(
        self,
        tokens: mtf.Tensor,
        embeddings: mtf.Tensor | None,
        experts_dim: mtf.Dimension,
        outer_expert_dims: list[mtf.Dimension],
        *,
        train: bool,
        variable_dtype: mtf.VariableDType,
        random: RandomSource,
        name: str,
    ) -> Scores:
        """Scores every expert for every token.

        Args:
          tokens: [..., S, M].
          embeddings: [..., S, M] of the tokens' words, if `word_embeddings` asks for them.
          experts_dim: X.
          outer_expert_dims: experts of the levels above; each has a kernel of its own.
            They stand in `tokens` too.
          train: whether to jitter, drop and explore.
          variable_dtype: types of variables; the master type is used, the rest is
            float32.
          random: source of random numbers.
          name: scope of the variables.

        Returns:
          The scores; creates `<name>/kernel` [*outer, M, X], with 2 M rows for
          "concat", and `<name>/bias` [*outer, X] if there is one.
        """
        inputs = mtf.cast(tokens, tf.float32)
        if train:
            inputs = self._disturb(inputs, random)
        inputs = self._join(inputs, embeddings)
        initializer = self.kernel_stddev and tf.truncated_normal_initializer(
            stddev=self.kernel_stddev
        )
        logits = mtf.layers.dense(
            inputs,
            [experts_dim],
            reduced_dims=inputs.shape.dims[-1:],
            expert_dims=outer_expert_dims,
            use_bias=self.use_bias,
            kernel_initializer=initializer or None,
            name=name,
            variable_dtype=mtf.VariableDType(variable_dtype.master_dtype, tf.float32, tf.float32),
        )
        # One expert alone cannot be left out.
        if train and self.explore_probability and experts_dim.size > 1:
            logits += self._exclusions(logits, experts_dim, random)
        return self._scores(logits, tokens.shape.dims[-2], experts_dim)

    def _scores(
        self, logits: mtf.Tensor, tokens_dim: mtf.Dimension, experts_dim: mtf.Dimension
    ) -> Scores:
        if self.function == "softmax":
            probabilities = softmax(logits)
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
        mode = self.word_embeddings
        if mode is None:
            return inputs
        embeddings = mtf.cast(embeddings, tf.float32)
        if mode.endswith("_stop_grad"):
            embeddings = mtf.stop_gradient(embeddings)
        if mode.startswith("concat"):
            return mtf.concat([inputs, embeddings], inputs.shape.dims[-1].name)
        return inputs + embeddings if mode.startswith("add") else embeddings

    def _exclusions(
        self, logits: mtf.Tensor, experts_dim: mtf.Dimension, random: RandomSource
    ) -> mtf.Tensor:
        """[..., S, X]: what leaves the best expert out where a token explores, else 0."""
        tokens = mtf.Shape(logits.shape.dims[:-1])
        drawn = random.named("explore").uniform(logits.mesh, tokens)
        explores = mtf.cast(mtf.less(drawn, self.explore_probability), tf.float32)
        best = mtf.one_hot(mtf.argmax(logits, experts_dim), experts_dim, dtype=tf.float32)
        left_out = best
        if self.explore_temperature is not None:
            sampled = sample(
                logits + best * EXCLUDED,
                experts_dim,
                self.explore_temperature,
                random.named("explore_sample"),
            )
            left_out = 1.0 - mtf.one_hot(sampled, experts_dim, dtype=tf.float32)
        return mtf.stop_gradient(explores * left_out * EXCLUDED)


def sample(
    logits: mtf.Tensor, experts_dim: mtf.Dimension, temperature: float, random: RandomSource
) -> mtf.Tensor:
    """int32 [..., S]: an expert drawn from softmax(logits / temperature), by Gumbel's trick."""
    uniform = random.uniform(logits.mesh, logits.shape)
    gumbel = -mtf.log(-mtf.log(uniform + 1e-9) + 1e-9)
    return mtf.argmax(mtf.stop_gradient(logits) / temperature + gumbel, experts_dim)
