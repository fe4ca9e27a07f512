"""One call of a mixture layer in plain numbers, which its costs are computed from.

Nothing here, or in what computes with it, imports TensorFlow or Mesh TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hmoe.startup.mesh_text import ONE_LEVEL, SEVERAL_LEVELS, check_together

TOP_K, SWITCH, UNIFORM, EXPERT_CHOICE = "top_k", "switch", "uniform", "expert_choice"
ROUTERS = (TOP_K, SWITCH, UNIFORM, EXPERT_CHOICE)
ENGINES = ("index", "einsum")
DETAILS = ("brief", "full", "off")
POOLS = ("group", "example", "batch")

# Multiplications of two tensors that an activation takes for each hidden value, forward and
# backward. ReLU and GELU are one operation each; swish is a product with a sigmoid.
ACTIVATIONS: Mapping[str, tuple[int, int]] = {
    "linear": (0, 0),
    "relu": (0, 0),
    "gelu": (0, 0),
    "swish": (1, 4),
}
# Dimensions of the layer's tensors whose rules no formula covers.
_NEVER_SPLIT = ("d_model", "length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterCase:
    """A router of the package, as far as its costs depend on it; see `hmoe.TopKRouter` and others.

    Attributes:
      kind: one of ROUTERS.
      k: choices of a token; 1 for a switch router, and not used where experts choose.
      weight_norm: p of the norm that weights are divided by; None: they are not.
      retries: further experts that a choice tries.
      priority: whether full buffers keep the tokens of highest probability.
      moves_bias: whether a balance bias moves with the load, which is summed for it then.
      softmax_over: "experts" or "tokens", where experts choose.
      gate_function: "softmax" or "sigmoid".
      gate_bias: whether each logit has a bias.
      jitter: whether inputs are multiplied by random numbers in training.
      input_dropout: whether inputs are dropped in training.
      explores: whether the best expert is left out at times in training.
    """

    kind: str
    k: int = 1
    weight_norm: float | None = None
    retries: int = 0
    priority: bool = False
    moves_bias: bool = False
    softmax_over: str = "experts"
    gate_function: str = "softmax"
    gate_bias: bool = False
    jitter: bool = False
    input_dropout: bool = False
    explores: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a router that there is no formula for."""
        _check_word("RouterCase", "kind", self.kind, ROUTERS)
        _check_word("RouterCase", "softmax_over", self.softmax_over, ("experts", "tokens"))
        _check_word("RouterCase", "gate_function", self.gate_function, ("softmax", "sigmoid"))
        if self.kind == SWITCH and self.k != 1:
            raise ValueError(
                f"RouterCase: kind is 'switch', but k is {self.k}; use k = 1, or top_k"
            )
        if self.k < 1:
            raise ValueError(f"RouterCase: k is {self.k}; a token has at least 1 choice")

    @property
    def experts_choose(self) -> bool:
        """Whether experts choose tokens, and not tokens experts."""
        return self.kind == EXPERT_CHOICE


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelCase:
    """A level; see `hmoe.Level`.

    Attributes:
      name: its name.
      num_experts: experts that one router chooses among.
      router: the router.
      capacity_factor: slots for a group as a multiple of its tokens, of the mode of the call.
      group_size: tokens of a group that are asked for.
      examples_per_group: the same in examples; None: `group_size` holds.
      min_capacity: slots that every expert has at least.
      balance_loss_coef: weight of the balance loss; all that matters is whether it is 0.
      balance_loss_over: one of POOLS.
      balance_loss_mean_over: "tokens" or "positions".
      z_loss_coef: weight of the z-loss; all that matters is whether it is 0.
      second_place_loss: whether the balance loss counts second choices too.
    """

    name: str
    num_experts: int
    router: RouterCase
    capacity_factor: float
    group_size: int = 1024
    examples_per_group: float | None = None
    min_capacity: int = 4
    balance_loss_coef: float = 0.01
    balance_loss_over: str = "group"
    balance_loss_mean_over: str = "tokens"
    z_loss_coef: float = 0.0
    second_place_loss: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown word."""
        where = f"level '{self.name}'"
        _check_word(where, "balance_loss_over", self.balance_loss_over, POOLS)
        _check_word(
            where, "balance_loss_mean_over", self.balance_loss_mean_over, ("tokens", "positions")
        )
        for field in ("num_experts", "group_size"):
            _check_positive(where, field, getattr(self, field))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeedForwardCase:
    """Experts, or the shared expert; see `hmoe.FeedForwardExperts`.

    Attributes:
      hidden_size: width of the hidden layer.
      activations: names of the activations, one for each input projection.
      num_outputs: output projections; 1 for a shared expert.
      use_bias: whether every projection adds a bias.
      dropout: whether hidden values are dropped in training.
      output_dropout: whether output values are dropped in training.
    """

    hidden_size: int
    activations: tuple[str, ...] = ("relu",)
    num_outputs: int = 1
    use_bias: bool = False
    dropout: bool = False
    output_dropout: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for an activation that there is no formula for."""
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(
                    f"FeedForwardCase: there is no formula for activation {name!r}; use one of"
                    f" {', '.join(ACTIVATIONS)}, or count the graph instead"
                )
        for field in ("hidden_size", "num_outputs"):
            _check_positive("FeedForwardCase", field, getattr(self, field))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCase:
    """One layer in one step on a mesh.

    Attributes:
      levels: outermost first, one to three.
      experts: the experts at the end of the hierarchy.
      shared_expert: the expert that every token passes; None: there is none.
      d_model: depth of the inputs.
      output_dim: depth of the outputs.
      outer_batch: size of the outer batch of one call.
      batch: size of the batch of one call.
      length: tokens of a sequence.
      mesh: size of each mesh axis, in order.
      layout: mesh axis of each dimension that is split.
      engine: one of ENGINES.
      activation_bytes: bytes of an activation, 4 or 2. Gradients of weights are summed over devices
        in that type, whatever type the weights are kept in.
      train: whether there is a backward pass, and what disturbs a layer in training.
      has_importance: whether the call is given the importance of tokens.
      metrics: one of DETAILS.
      on_tpu: whether the mesh is of TPU cores.
      num_microbatches: calls of the layer in a step.
    """

    levels: tuple[LevelCase, ...]
    experts: FeedForwardCase
    d_model: int
    output_dim: int
    outer_batch: int
    batch: int
    length: int
    shared_expert: FeedForwardCase | None = None
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    layout: Mapping[str, str] = dataclasses.field(default_factory=dict)
    engine: str = "index"
    activation_bytes: int = 4
    train: bool = True
    has_importance: bool = True
    metrics: str = "brief"
    on_tpu: bool = False
    num_microbatches: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for what the layer refuses, or no formula covers."""
        where = "LayerCase"
        if not 1 <= len(self.levels) <= len(SEVERAL_LEVELS):
            raise ValueError(
                f"{where}: there are {len(self.levels)} levels; give 1 to {len(SEVERAL_LEVELS)}"
            )
        _check_word(where, "engine", self.engine, ENGINES)
        _check_word(where, "metrics", self.metrics, DETAILS)
        if self.activation_bytes not in (2, 4):
            raise ValueError(
                f"{where}: activation_bytes is {self.activation_bytes}; it must be 2 or 4"
            )
        sizes = ("d_model", "output_dim", "outer_batch", "batch", "length", "num_microbatches")
        for field in sizes:
            _check_positive(where, field, getattr(self, field))
        if (
            self.shared_expert is not None
            and max(self.experts.num_outputs, self.shared_expert.num_outputs) > 1
        ):
            raise ValueError(
                f"{where}: the experts have {self.experts.num_outputs} outputs and the shared"
                f" expert {self.shared_expert.num_outputs}, which cannot be added; give each one"
                " output, or set shared_expert to None"
            )
        self._check_layout()
        self._check_divisible()

    def axis(self, dimension: str) -> str | None:
        """Returns the mesh axis over which a dimension is split, if any."""
        axis = self.layout.get(dimension)
        return axis if axis in self.mesh else None

    def splits(self, dimension: str) -> int:
        """Returns the devices that share a dimension; 1 if it is whole."""
        axis = self.axis(dimension)
        return 1 if axis is None else self.mesh[axis]

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the dimensions of experts, outermost first."""
        return ONE_LEVEL if len(self.levels) == 1 else SEVERAL_LEVELS[: len(self.levels)]

    def _check_layout(self) -> None:
        for name in _NEVER_SPLIT:
            if self.axis(name) is not None:
                raise ValueError(
                    f"LayerCase: layout rule '{name}:{self.axis(name)}' splits a dimension that no"
                    " formula covers; remove the rule, or count the graph instead"
                )
        names = self.expert_names
        if len(names) > 2 and self.axis(names[2]) is not None:
            raise ValueError(
                f"LayerCase: layout rule '{names[2]}:{self.axis(names[2])}' splits the experts of a"
                " third level, but a T5 has two batch dimensions to exchange them for; remove the"
                " rule, or use two levels"
            )
        tensors = [
            [*names, "expert_hidden", *(["outer_batch"] if len(names) == 1 else [])],
            ["outer_batch", "batch"],
            [names[0], "outer_batch"],
        ]
        if self.shared_expert is not None:
            tensors.append(["outer_batch", "batch", "d_ff"])
        axes = {name: axis for each in tensors for name in each if (axis := self.axis(name))}
        for each in tensors:
            check_together(each, axes)

    def _check_divisible(self) -> None:
        sizes = {
            "outer_batch": self.outer_batch,
            "batch": self.batch,
            "expert_hidden": self.experts.hidden_size,
            **{name: level.num_experts for name, level in zip(self.expert_names, self.levels)},
        }
        if self.shared_expert is not None:
            sizes["d_ff"] = self.shared_expert.hidden_size
        for name, size in sizes.items():
            if size % self.splits(name):
                raise ValueError(
                    f"LayerCase: {name} has size {size}, which the {self.splits(name)} devices of"
                    f" mesh axis '{self.axis(name)}' cannot share; use a multiple of"
                    f" {self.splits(name)} or another layout"
                )


def _check_word(where: str, field: str, value: str, values: tuple[str, ...]) -> None:
    if value not in values:
        raise ValueError(f"{where}: {field} is {value!r}; it must be one of {', '.join(values)}")


def _check_positive(where: str, field: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{where}: {field} is {value}; it must be at least 1")
