"""Feed-forward experts, and the expert that every token shares."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.randomness import RandomSource

Activation = Union[str, Sequence[str]]


class FeedForward:
    """The settings of a feed-forward layer, and its parameters.

    Attributes:
      hidden_size: width of the hidden layer.
      activations: names from mesh-tensorflow, or "linear". Several make a gated
        layer: as many input projections, whose activated values are multiplied
        (GEGLU is ["gelu", "linear"]; Shazeer 2020).
      use_bias: whether every projection adds a bias.
      dropout_rate: share of the hidden values dropped in training.
      output_dropout_rate: share of the output values dropped in training.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        activation: Activation = "relu",
        use_bias: bool = False,
        dropout_rate: float = 0.0,
        output_dropout_rate: float = 0.0,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range, or an activation is unknown.
        """
        where = type(self).__name__
        self.hidden_size = checks.positive_int(where, "hidden_size", hidden_size)
        self.activations = _activations(where, activation)
        self.use_bias = checks.boolean(where, "use_bias", use_bias)
        self.dropout_rate = checks.fraction(where, "dropout_rate", dropout_rate)
        self.output_dropout_rate = checks.fraction(
            where, "output_dropout_rate", output_dropout_rate)

    def num_params(self, input_size: int, output_size: int) -> int:
        """Parameters of one such layer between depths of these sizes."""
        hidden, gates = self.hidden_size, len(self.activations)
        weights = gates * input_size * hidden + hidden * output_size
        return weights + (gates * hidden + output_size) * self.use_bias

    def _apply(
        self,
        inputs: mtf.Tensor,
        hidden_dim: mtf.Dimension,
        output_dim: mtf.Dimension,
        expert_dims: list[mtf.Dimension],
        train: bool,
        variable_dtype: mtf.VariableDType,
        random: RandomSource,
    ) -> mtf.Tensor:
        common = {"expert_dims": expert_dims, "use_bias": self.use_bias,
                  "variable_dtype": variable_dtype}
        # [..., M] -> [..., F]
        hidden = mtf.layers.dense_product(
            inputs, reduced_dims=inputs.shape.dims[-1:], new_dims=[hidden_dim],
            activation_functions=list(self.activations), name="wi", **common)
        if train:
            hidden = random.named("hidden").dropout(hidden, self.dropout_rate)
        # [..., F] -> [..., N]
        outputs = mtf.layers.dense(
            hidden, [output_dim], reduced_dims=[hidden_dim], name="wo", **common)
        if train:
            outputs = random.named("outputs").dropout(outputs, self.output_dropout_rate)
        return outputs


class FeedForwardExperts(FeedForward):
    """One feed-forward layer per expert, all of one shape; see `FeedForward`."""

    def __call__(
        self,
        inputs: mtf.Tensor,
        output_dim: mtf.Dimension,
        expert_dims: list[mtf.Dimension],
        *,
        train: bool,
        variable_dtype: mtf.VariableDType,
        random: RandomSource,
    ) -> mtf.Tensor:
        """Applies each expert to its own buffer.

        Args:
          inputs: [*expert_dims, ..., M].
          output_dim: N.
          expert_dims: the experts, innermost level first.
          train: whether dropout applies.
          variable_dtype: types of the variables.
          random: source of random numbers for dropout.

        Returns:
          [*expert_dims, ..., N]. Creates `wi/kernel` [*expert_dims, M, F] (or `wi_0`,
          `wi_1`, ... if gated) and `wo/kernel` [*expert_dims, F, N].
        """
        hidden_dim = mtf.Dimension("expert_hidden", self.hidden_size)
        return self._apply(inputs, hidden_dim, output_dim, expert_dims, train, variable_dtype,
                           random)

    def __repr__(self) -> str:
        return f"FeedForwardExperts(hidden_size={self.hidden_size})"


class SharedExpert(FeedForward):
    """A dense layer that every token passes, beside the routed experts.

    Tokens that found no room in any expert pass it too; padding does not.
    """

    def __call__(
        self,
        inputs: mtf.Tensor,
        output_dim: mtf.Dimension,
        *,
        train: bool,
        variable_dtype: mtf.VariableDType,
        random: RandomSource,
    ) -> mtf.Tensor:
        """[..., M] -> [..., N]; creates `shared/wi/kernel` and `shared/wo/kernel`.

        The hidden dimension is called `d_ff`, so that rules for dense layers apply.
        """
        with tf.variable_scope("shared"):
            hidden_dim = mtf.Dimension("d_ff", self.hidden_size)
            return self._apply(inputs, hidden_dim, output_dim, [], train, variable_dtype, random)

    def __repr__(self) -> str:
        return f"SharedExpert(hidden_size={self.hidden_size})"


def _activations(where: str, activation: Activation) -> tuple:
    names = (activation,) if isinstance(activation, str) else tuple(activation)
    if not names:
        raise ValueError(f"{where}: activation is empty; give a name such as 'relu', or several"
                         " for a gated layer such as ['gelu', 'linear']")
    for name in names:
        if name != "linear" and not (isinstance(name, str) and callable(getattr(mtf, name, None))):
            raise ValueError(f"{where}: activation is {activation!r}, but mesh-tensorflow has no"
                             f" function {name!r}; use one such as 'relu', 'gelu', 'swish' or"
                             " 'linear'")
    return names
