"""Feed-forward experts, and the expert that every token shares."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Sequence

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.config import Configuration, configuration, setting, switch
from hmoe.experts.activations import activate, is_known
from hmoe.experts.projection import project
from hmoe.experts.split_merge import expert_scope
from hmoe.mesh.layout import tensor_order, unsplit_name
from hmoe.mesh.randomness import RandomSource

Activation = str | Sequence[str]


def _activation_names(where: str, field: str, value: Activation) -> tuple[str, ...]:
    """Returns the names of activations as a tuple; raises ValueError for unknown ones."""
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names:
        raise ValueError(
            f"{where}: {field} is empty; give a name such as 'relu', or several for a gated layer"
            " such as ['gelu', 'linear']"
        )
    for name in names:
        if not is_known(name):
            raise ValueError(
                f"{where}: {field} is {value!r}, but mesh-tensorflow has no function {name!r};"
                " use one such as 'relu', 'gelu', 'swish' or 'linear'"
            )
    return names


def _output_names(where: str, field: str, value: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of outputs as a tuple; raises ValueError if they do not fit."""
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    if (
        not is_list
        or len(set(map(str, value))) < len(value)
        or not all(_is_output_name(name) for name in value)
    ):
        raise ValueError(
            f"{where}: {field} is {value!r}; give a list of different words that do not begin with"
            " 'wi' or 'expert', such as ['wo'], or ['q_wo', 'k_wo'] for queries and keys"
        )
    return tuple(value)


def _is_output_name(name: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"(?!wi|expert)[A-Za-z]\w*", name))


@configuration()
class FeedForward(Configuration):
    """Settings of a feed-forward layer, and its number of parameters."""

    hidden_size: int = setting(
        doc="Width of the hidden layer.",
        unit="hidden values",
        source="Mesh TensorFlow `hidden_size`",
        check=checks.positive_int,
    )
    activation: Activation = setting(
        "relu",
        doc="""Name of a function of Mesh TensorFlow, or "linear". Several names make a gated layer
        with as many input projections, whose activated values are multiplied (GEGLU is ["gelu",
        "linear"]; Shazeer 2020).""",
        unit="name, or list of names",
        source="Mesh TensorFlow `activation`; GLU",
        check=_activation_names,
    )
    use_bias: bool = switch(
        False, doc="Whether every projection adds a bias.", source="TF Model Garden; OLMo-core"
    )
    dropout_rate: float = setting(
        0.0,
        doc="Share of the hidden values that is dropped in training.",
        unit="share, 0 to 1",
        source="Mesh TensorFlow `dropout_rate`",
        check=checks.fraction,
    )
    output_dropout_rate: float = setting(
        0.0,
        doc="Share of the output values that is dropped in training.",
        unit="share, 0 to 1",
        source="TF Model Garden `output_dropout`",
        check=checks.fraction,
    )

    @property
    def num_outputs(self) -> int:
        """Output projections of the one hidden layer."""
        return 1

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the activations, one for each input projection."""
        return tuple(self.activation)

    def num_params(self, input_size: int, output_size: int) -> int:
        """Returns the number of parameters of one such layer between depths of these sizes."""
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
        """Projects [..., M] -> [..., F] and activates."""
        factors = []
        for number, activation in enumerate(self.activations):
            name = f"wi_{number}" if len(self.activations) > 1 else "wi"
            factors.append(activate(activation, weights.project(inputs, hidden_dim, name)))
        hidden = factors[0]
        for factor in factors[1:]:
            hidden *= factor
        return random.named("hidden").dropout(hidden, self.dropout_rate) if train else hidden

    def _drop_outputs(self, outputs: mtf.Tensor, train: bool, random: RandomSource) -> mtf.Tensor:
        if not train:
            return outputs
        return random.named("outputs").dropout(outputs, self.output_dropout_rate)


@configuration()
class FeedForwardExperts(FeedForward):
    """One feed-forward layer for each expert, all of one shape."""

    output_names: Sequence[str] = setting(
        ("wo",),
        doc="""Names of the output projections of the one hidden layer. Several give each token
        several outputs: queries and keys of attention are ["q_wo", "k_wo"] (`use_experts_attention`
        of Mesh TensorFlow's `MoE1D`).""",
        unit="list of words",
        source="Mesh TensorFlow `use_experts_attention`",
        check=_output_names,
    )
    separate: bool = switch(
        False,
        doc="""Whether every expert has variables of its own, which are stacked where they are used,
        instead of one variable for all experts. Outputs are the same. This is for inference and for
        tools that want single experts (`hmoe split`): on a mesh every device then holds all
        experts, and training gathers their gradients.""",
        source="torchtune",
    )

    @property
    def num_outputs(self) -> int:
        """Output projections of the one hidden layer."""
        return len(self.output_names)

    def with_outputs(self, output_names: Sequence[str]) -> FeedForwardExperts:
        """Returns the same experts with other output projections.

        Raises:
          ValueError: the names are missing, repeated or no words.
        """
        # A copy, since a user's own kind of experts may have another constructor.
        other = copy.copy(self)
        names = _output_names(self.error_prefix(), "output_names", output_names)
        object.__setattr__(other, "output_names", names)
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

        Dimensions of experts stand innermost level first in tensors and variables (written
        *experts), while `expert_dims` runs outermost first; see `hmoe.mesh.layout.tensor_order`.

        Args:
          inputs: [*experts, ..., M].
          output_dim: N.
          expert_dims: the experts of each level, outermost first.
          train: whether dropout applies.
          variable_dtype: types of the variables.
          random: source of random numbers for dropout.

        Returns:
          [*experts, ..., N]; with several outputs [*experts, ..., outputs, N], in the order of
          `output_names`. Creates `wi/kernel` [*experts, M, F] (or `wi_0`, `wi_1`, ... if gated) and
          `wo/kernel` [*experts, F, N] (or the names in `output_names`), and with `use_bias` a
          `bias` beside each, without its middle dimension. With `separate` it creates
          `expert_0_0/wi/kernel` [M, F] and so on, the outermost level's number first.
        """
        weights = _Weights(expert_dims, self.use_bias, variable_dtype, self.separate)
        hidden_dim = mtf.Dimension("expert_hidden", self.hidden_size)
        hidden = self._hidden(inputs, hidden_dim, weights, train, random)
        # [*experts, ..., F] -> [*experts, ..., N] each
        each = [weights.project(hidden, output_dim, name) for name in self.output_names]
        outputs = each[0] if len(each) == 1 else mtf.stack(each, "outputs", axis=-2)
        return self._drop_outputs(outputs, train, random)


@configuration()
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
        """Applies the layer: [..., M] -> [..., N].

        Creates `shared/wi/kernel` and `shared/wo/kernel`. The hidden dimension is called `d_ff`, so
        that layout rules for dense layers apply.
        """
        with tf.variable_scope("shared"):
            weights = _Weights([], self.use_bias, variable_dtype, separate=False)
            hidden_dim = mtf.Dimension("d_ff", self.hidden_size)
            hidden = self._hidden(inputs, hidden_dim, weights, train, random)
            # [..., F] -> [..., N]
            outputs = weights.project(hidden, output_dim, "wo")
            return self._drop_outputs(outputs, train, random)


class _Weights:
    """The variables of a layer of experts: one for all experts, or one for each."""

    def __init__(
        self,
        expert_dims: list[mtf.Dimension],
        use_bias: bool,
        variable_dtype: mtf.VariableDType,
        separate: bool,
    ):
        # Written *experts below.
        self._expert_dims = tensor_order(expert_dims)
        self._use_bias = use_bias
        self._variable_dtype = variable_dtype
        self._separate = separate

    def project(self, inputs: mtf.Tensor, new_dim: mtf.Dimension, name: str) -> mtf.Tensor:
        """Projects [*experts, ..., I] -> [*experts, ..., `new_dim`]."""
        kernel = self._kernel(inputs, new_dim, name)
        outputs = project(inputs, kernel, new_dim, name)
        if self._use_bias:
            outputs += self._bias(inputs.mesh, new_dim, name)
        return outputs

    def _kernel(self, inputs: mtf.Tensor, new_dim: mtf.Dimension, name: str) -> mtf.Tensor:
        """Returns [*experts, I, `new_dim`], in the type of the inputs."""
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
        """Returns [*experts, `new_dim`]."""
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
        """Returns [*experts, *dims], stacked from the variables [*dims] of each expert."""
        initializer = tf.zeros_initializer()
        if len(dims) == 2:
            initializer = mtf.layers.VarianceScalingInitializer()(dims[:1], dims[1:])
        each = []
        for numbers in itertools.product(*[range(dim.size) for dim in self._expert_dims]):
            with tf.variable_scope(expert_scope(numbers[::-1])):
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
