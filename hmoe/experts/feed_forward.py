"""Feed-forward experts, and the expert that every token shares."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Sequence

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.experts.activations import activate, is_known
from hmoe.experts.projection import project
from hmoe.experts.split_merge import expert_scope
from hmoe.mesh.layout import unsplit_name
from hmoe.mesh.randomness import RandomSource

Activation = str | Sequence[str]


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
      num_outputs: output projections of the one hidden layer.
    """

    num_outputs: int

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
            where, "output_dropout_rate", output_dropout_rate
        )

    def num_params(self, input_size: int, output_size: int) -> int:
        """Parameters of one such layer between depths of these sizes."""
        hidden, gates = self.hidden_size, len(self.activations)
        outputs = self.num_outputs * output_size
        weights = gates * input_size * hidden + hidden * outputs
        return weights + (gates * hidden + outputs) * self.use_bias

    def _hidden(
        self,
        inputs: mtf.Tensor,
        hidden_dim: mtf.Dimension,
        weights: _Weights,
        train: bool,
        random: RandomSource,
    ) -> mtf.Tensor:
        """[..., M] -> [..., F]."""
        factors = []
        for number, activation in enumerate(self.activations):
            name = f"wi_{number}" if len(self.activations) > 1 else "wi"
            factors.append(activate(activation, weights.project(inputs, hidden_dim, name)))
        hidden = factors[0]
        for factor in factors[1:]:
            hidden *= factor
        return random.named("hidden").dropout(hidden, self.dropout_rate) if train else hidden

    def _drop_outputs(self, outputs: mtf.Tensor, train: bool, random: RandomSource) -> mtf.Tensor:
        return (
            random.named("outputs").dropout(outputs, self.output_dropout_rate) if train else outputs
        )


class FeedForwardExperts(FeedForward):
    """One feed-forward layer per expert, all of one shape.

    Attributes:
      output_names: of the output projections of the one hidden layer. Several give
        each token several outputs: queries and keys of attention are
        ("q_wo", "k_wo") (`use_experts_attention` of Mesh TensorFlow's `MoE1D`).
      separate: whether every expert has variables of its own, which are stacked where
        they are used, instead of one variable with all experts. Outputs are the same.
        For inference and for tools that want single experts (`hmoe split`): on a mesh
        every device then holds all experts, and training gathers their gradients.
    """

    def __init__(
        self,
        *,
        hidden_size: int,
        activation: Activation = "relu",
        use_bias: bool = False,
        dropout_rate: float = 0.0,
        output_dropout_rate: float = 0.0,
        output_names: Sequence[str] = ("wo",),
        separate: bool = False,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range, an activation is unknown, or output
            names are missing, repeated or no words.
        """
        super().__init__(
            hidden_size=hidden_size,
            activation=activation,
            use_bias=use_bias,
            dropout_rate=dropout_rate,
            output_dropout_rate=output_dropout_rate,
        )
        where = type(self).__name__
        self.output_names = _output_names(where, output_names)
        self.num_outputs = len(self.output_names)
        self.separate = checks.boolean(where, "separate", separate)

    def with_outputs(self, output_names: Sequence[str]) -> FeedForwardExperts:
        """The same experts with other output projections.

        Raises:
          ValueError: as the constructor does.
        """
        # A copy, so that a user's own kind of experts stays what it is.
        other = copy.copy(self)
        other.output_names = _output_names(type(self).__name__, output_names)
        other.num_outputs = len(other.output_names)
        return other

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
          [*expert_dims, ..., N]; with several outputs [*expert_dims, ..., outputs, N],
          in the order of `output_names`. Creates `wi/kernel` [*expert_dims, M, F] (or
          `wi_0`, `wi_1`, ... if gated) and `wo/kernel` [*expert_dims, F, N] (or what
          `output_names` says), and with `use_bias` a `bias` beside each, without its
          middle dimension. With `separate` it creates `expert_0_0/wi/kernel` [M, F] and
          so on, the outermost level's number first.
        """
        weights = _Weights(expert_dims, self.use_bias, variable_dtype, self.separate)
        hidden_dim = mtf.Dimension("expert_hidden", self.hidden_size)
        hidden = self._hidden(inputs, hidden_dim, weights, train, random)
        # [*expert_dims, ..., F] -> [*expert_dims, ..., N] each
        each = [weights.project(hidden, output_dim, name) for name in self.output_names]
        outputs = each[0] if len(each) == 1 else mtf.stack(each, "outputs", axis=-2)
        return self._drop_outputs(outputs, train, random)

    def __repr__(self) -> str:
        return f"FeedForwardExperts(hidden_size={self.hidden_size})"


class SharedExpert(FeedForward):
    """A dense layer that every token passes, beside the routed experts.

    Tokens that found no room in any expert pass it too; padding does not.
    """

    num_outputs = 1

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
            weights = _Weights([], self.use_bias, variable_dtype, separate=False)
            hidden_dim = mtf.Dimension("d_ff", self.hidden_size)
            hidden = self._hidden(inputs, hidden_dim, weights, train, random)
            # [..., F] -> [..., N]
            return self._drop_outputs(weights.project(hidden, output_dim, "wo"), train, random)

    def __repr__(self) -> str:
        return f"SharedExpert(hidden_size={self.hidden_size})"


class _Weights:
    """The variables of one layer of experts: one for all experts, or one for each."""

    def __init__(
        self,
        expert_dims: list[mtf.Dimension],
        use_bias: bool,
        variable_dtype: mtf.VariableDType,
        separate: bool,
    ):
        self._expert_dims = expert_dims
        self._use_bias = use_bias
        self._variable_dtype = variable_dtype
        self._separate = separate

    def project(self, inputs: mtf.Tensor, new_dim: mtf.Dimension, name: str) -> mtf.Tensor:
        """[*expert_dims, ..., I] -> [*expert_dims, ..., `new_dim`]."""
        kernel = self._kernel(inputs, new_dim, name)
        outputs = project(inputs, kernel, new_dim, name)
        if self._use_bias:
            outputs += self._bias(inputs.mesh, new_dim, name)
        return outputs

    def _kernel(self, inputs: mtf.Tensor, new_dim: mtf.Dimension, name: str) -> mtf.Tensor:
        """[*expert_dims, I, `new_dim`], in the type of the inputs."""
        reduced = inputs.shape.dims[-1:]
        if not self._separate:
            return mtf.layers.get_dense_kernel_weights(
                inputs,
                [new_dim],
                reduced,
                self._expert_dims,
                kernel_initializer=None,
                name=name,
                variable_dtype=self._variable_dtype,
            )
        return mtf.cast(
            self._stacked(inputs.mesh, f"{name}/kernel", [*reduced, new_dim]), inputs.dtype
        )

    def _bias(self, mesh: mtf.Mesh, new_dim: mtf.Dimension, name: str) -> mtf.Tensor:
        """[*expert_dims, `new_dim`]."""
        if self._separate:
            return self._stacked(mesh, f"{name}/bias", [new_dim])
        return mtf.get_variable(
            mesh,
            f"{name}/bias",
            mtf.Shape([*self._expert_dims, new_dim]),
            initializer=tf.zeros_initializer(),
            dtype=self._variable_dtype,
        )

    def _stacked(self, mesh: mtf.Mesh, name: str, dims: list[mtf.Dimension]) -> mtf.Tensor:
        """[*expert_dims, *dims] of as many variables [*dims] as there are experts."""
        initializer = tf.zeros_initializer()
        if len(dims) == 2:
            initializer = mtf.layers.VarianceScalingInitializer()(dims[:1], dims[1:])
        each = []
        for numbers in itertools.product(*[range(dim.size) for dim in self._expert_dims]):
            with tf.variable_scope(expert_scope(numbers)):
                each.append(
                    mtf.get_variable(
                        mesh,
                        name,
                        mtf.Shape(dims),
                        dtype=self._variable_dtype,
                        initializer=initializer,
                    )
                )
        # A stacked dimension cannot be split: name the experts one by one, then as the
        # layout knows them. One reshape either factors a dimension or splits it, not both.
        unsplit = [mtf.Dimension(unsplit_name(dim.name), dim.size) for dim in self._expert_dims]
        stacked = mtf.stack(each, "stacked_experts")
        stacked = mtf.reshape(stacked, mtf.Shape([*unsplit, *dims]))
        return mtf.reshape(stacked, mtf.Shape([*self._expert_dims, *dims]))


def _activations(where: str, activation: Activation) -> tuple:
    names = (activation,) if isinstance(activation, str) else tuple(activation)
    if not names:
        raise ValueError(
            f"{where}: activation is empty; give a name such as 'relu', or several"
            " for a gated layer such as ['gelu', 'linear']"
        )
    for name in names:
        if not is_known(name):
            raise ValueError(
                f"{where}: activation is {activation!r}, but mesh-tensorflow has no"
                f" function {name!r}; use one such as 'relu', 'gelu', 'swish' or"
                " 'linear'"
            )
    return names


def _output_names(where: str, names: Sequence[str]) -> tuple:
    known = (
        f"{where}: output_names is {names!r}; give a list of different words that do not"
        " begin with 'wi' or 'expert', such as ['wo'], or ['q_wo', 'k_wo'] for queries and"
        " keys"
    )
    if not isinstance(names, (list, tuple)) or not names or len(set(map(str, names))) < len(names):
        raise ValueError(known)
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"(?!wi|expert)[A-Za-z]\w*", name):
            raise ValueError(known)
    return tuple(names)
