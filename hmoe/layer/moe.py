"""The layer: a hierarchy of levels with experts at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.dispatch.operations import ENGINES
from hmoe.experts.feed_forward import FeedForwardExperts, SharedExpert
from hmoe.layer.level import Level
from hmoe.layer.metrics import DETAILS
from hmoe.layer.recursion import Descent
from hmoe.layer.token_batch import first_using_embeddings
from hmoe.mesh import batch_dims
from hmoe.mesh.layout import MAX_LEVELS, MeshLayout
from hmoe.mesh.local_ops import Local, unstacked, where_real
from hmoe.mesh.randomness import RandomSource
from hmoe.routing.balancing import BiasUpdate


@dataclasses.dataclass(frozen=True)
class MoEResult:
    """What a layer returns.

    Attributes:
      outputs: [<as the inputs>, output_dim]; of experts with several outputs a list.
      losses: scalars "<level>/balance", "<level>/second_place" and "<level>/z", already
        weighted by the level's coefficients; training adds their sum.
      metrics: sums and counts for `hmoe.layer.metrics.summarize`.
      bias_updates: of levels that balance by a bias, in training; apply them once a step
        with `hmoe.routing.balancing.apply_all`.
    """

    outputs: Any
    losses: dict[str, mtf.Tensor]
    metrics: dict[str, mtf.Tensor]
    bias_updates: list[BiasUpdate]

    @property
    def loss(self) -> mtf.Tensor:
        """The sum of the losses, float32."""
        return mtf.add_n(list(self.losses.values()))


class HierarchicalMoE:
    """A mixture of experts of one, two or three levels.

    Attributes:
      levels: outermost first. One is the flat mixture, two exchange tokens along two
        mesh axes; a third is not split.
      experts: what stands at the end of the hierarchy.
      shared_expert: a dense layer beside it, whose output is added.
      aux_loss_factor: multiplies all balance coefficients.
      router_z_loss_factor: multiplies all z-loss coefficients.
      exact_groups: whether a mesh that forces another group size than one device
        would have is an error instead of a warning.
      inserted_outer_batch: size of the outer batch that is made where inputs have
        none; None: the size of the mesh axis over which `outer_batch` is split.
        Give the same number on two meshes for the same groups on both.
      metrics: "brief", "full" (adds entropy, ranks, and the load of each expert), or
        "off"; losses are always told.
      engine: how tokens are moved: "index" gathers rows, "einsum" multiplies with
        one-hot tensors, "auto" takes einsum on TPUs and index elsewhere. All give the
        same numbers but for rounding.
      seed: of the layer's random numbers.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        experts: FeedForwardExperts,
        *,
        shared_expert: SharedExpert | None = None,
        aux_loss_factor: float = 1.0,
        router_z_loss_factor: float = 1.0,
        exact_groups: bool = False,
        inserted_outer_batch: int | None = None,
        metrics: str = "brief",
        engine: str = "auto",
        seed: int = 0,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: levels are missing, too many or of one name, or a setting is out
            of range.
        """
        where = "HierarchicalMoE"
        self.levels = _checked_levels(where, levels)
        self.experts = _checked_part(where, "experts", experts, FeedForwardExperts, "")
        self.shared_expert: Any = (
            None
            if shared_expert is None
            else _checked_part(where, "shared_expert", shared_expert, SharedExpert, ", or None")
        )
        self.aux_loss_factor = checks.non_negative_number(where, "aux_loss_factor", aux_loss_factor)
        self.router_z_loss_factor = checks.non_negative_number(
            where, "router_z_loss_factor", router_z_loss_factor
        )
        self.exact_groups = checks.boolean(where, "exact_groups", exact_groups)
        self.inserted_outer_batch = (
            None
            if inserted_outer_batch is None
            else (checks.positive_int(where, "inserted_outer_batch", inserted_outer_batch))
        )
        self.metrics = checks.one_of(where, "metrics", metrics, DETAILS)
        self.engine = checks.one_of(where, "engine", engine, ENGINES)
        self.seed = checks.non_negative_int(where, "seed", seed)
        if shared_expert is not None and self.num_outputs > 1:
            raise ValueError(
                f"{where}: the experts have {self.num_outputs} outputs, to which a shared expert's"
                " one cannot be added; set shared_expert to None, or give the experts one output"
            )

    @property
    def num_outputs(self) -> int:
        """Outputs of each expert for one token."""
        # A user's own experts need not say that they have one.
        return getattr(self.experts, "num_outputs", 1)

    @property
    def uses_embeddings(self) -> bool:
        """Whether a gate at any level asks for the embeddings of the tokens' words."""
        return first_using_embeddings(self.levels) is not None

    def __call__(
        self,
        inputs: mtf.Tensor,
        output_dim: mtf.Dimension,
        *,
        train: bool,
        importance: mtf.Tensor | None = None,
        embeddings: mtf.Tensor | None = None,
        mesh_shape: Any = None,
        layout: Any = None,
        variable_dtype: mtf.VariableDType | None = None,
        num_microbatches: int = 1,
        drop_tokens: bool = True,
        causal: bool = False,
    ) -> MoEResult:
        """Adds the layer to the graph.

        Args:
          inputs: [batch, ..., M] or [outer_batch, batch, ..., M].
          output_dim: N.
          train: whether training factors, policies and dropout apply.
          importance: per token, a tensor [<leading dimensions of inputs>] or some of
            them, of numbers or booleans; 1 a full token, between 0 and 1 one that gets a
            single expert, 0 padding, whose contents reach nothing and whose outputs are 0.
            None: all are full.
          embeddings: of the tokens' words, of the shape of inputs, if a gate asks for
            them.
          mesh_shape: for example "rows:2;cols:4".
          layout: for example "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows".
          variable_dtype: types of the variables; None: float32.
          num_microbatches: by which losses are divided, since their sum is trained on.
          drop_tokens: False makes each sequence (the last dimension before the depth; none
            among the batch dimensions) a group of its own, in which every expert has room for
            all tokens, whatever the level's group size and capacity: for predicting and
            scoring, where nothing may depend on other examples.
          causal: with `drop_tokens` False, makes each token a group of its own, so that a
            sequence that is read at once is routed as when it is decoded token by token.

        Returns:
          Outputs [<leading dimensions of inputs>, N], losses and metrics.

        Raises:
          ValueError: an argument is of the wrong kind, layout, mesh and sizes do not fit, or
            embeddings are missing; before anything is built.
        """
        _check_call(
            inputs,
            output_dim,
            importance,
            variable_dtype,
            num_microbatches,
            train=train,
            drop_tokens=drop_tokens,
            causal=causal,
        )
        mesh_layout = MeshLayout(mesh_shape, layout)
        mesh_layout.check_levels(self.levels)
        embeddings = _checked_embeddings(self.levels, inputs, embeddings, mesh_layout)
        dims = batch_dims.batch_dims(inputs.shape.dims[:-1], mesh_layout, self.inserted_outer_batch)
        of_inputs = _full_importance(inputs, importance)
        if importance is not None:
            inputs = where_real(inputs, of_inputs)
            embeddings = embeddings and where_real(embeddings, of_inputs)
        tokens = dims.split(inputs)
        descent = Descent(
            self,
            mesh_layout,
            train=train,
            num_microbatches=num_microbatches,
            sequence_size=None if drop_tokens else _sequence_size(tokens, causal),
            output_dim=output_dim,
            variable_dtype=variable_dtype or mtf.VariableDType(),
            has_partial_tokens=importance is not None,
            random=RandomSource(self.seed, tf.get_variable_scope().name),
            num_examples=mtf.Shape(tokens.shape.dims[:2]).size,
        )
        outputs = descent.run(tokens, embeddings and dims.split(embeddings), dims.split(of_inputs))
        outputs = dims.merge(
            mtf.reshape(outputs, mtf.Shape(tokens.shape.dims[:-1] + descent.output_dims))
        )
        if self.shared_expert:
            outputs += descent.shared(inputs)
        if importance is not None:
            outputs = where_real(outputs, of_inputs)
        if self.num_outputs > 1:
            outputs = unstacked(outputs, descent.output_dims[0])
        told = descent.told
        return MoEResult(outputs, told.losses, told.sums, told.bias_updates)

    def num_params(self, input_size: int, output_size: int) -> int:
        """Parameters of the layer, between depths of these sizes."""
        gating, families = 0, 1
        for level in self.levels:
            gating += families * level.router.gate.num_params(input_size, level.num_experts)
            families *= level.num_experts
        return (
            gating
            + families * self.experts.num_params(input_size, output_size)
            + self._num_shared(input_size, output_size)
        )

    def num_active_params(self, input_size: int, output_size: int) -> int:
        """Parameters that one token can use at most.

        It meets one gating matrix at the first level and one for each destination it
        reaches further in; of 2 x 2 choices it reaches 3 experts, since a second
        choice goes to one expert only. Where experts choose, it may reach all.
        """
        gating, reached = 0, 1
        for level in self.levels:
            gating += reached * level.router.gate.num_params(input_size, level.num_experts)
            reached = _reached_further(reached, level)
        return (
            gating
            + reached * self.experts.num_params(input_size, output_size)
            + self._num_shared(input_size, output_size)
        )

    def _num_shared(self, input_size: int, output_size: int) -> int:
        return self.shared_expert.num_params(input_size, output_size) if self.shared_expert else 0


def _reached_further(reached: int, level: Level) -> int:
    """Destinations that a token can have after a level, of so many before it."""
    if level.router.max_choices is None:
        return reached * level.num_experts
    # Later choices are partial tokens further in: they get one expert each.
    return reached + level.router.num_choices(level.num_experts) - 1


def _check_call(
    inputs: Any,
    output_dim: Any,
    importance: Any,
    variable_dtype: Any,
    num_microbatches: Any,
    **switches: Any,
) -> None:
    """Raises ValueError for an argument of a call that is of the wrong kind."""
    where = "HierarchicalMoE"
    if not isinstance(inputs, mtf.Tensor) or not inputs.dtype.is_floating:
        raise ValueError(
            f"{where}: inputs is {inputs!r}; it must be an mtf.Tensor of"
            " floating-point numbers [batch, ..., depth]"
        )
    if not isinstance(output_dim, mtf.Dimension):
        raise ValueError(
            f"{where}: output_dim is {output_dim!r}; it must be an mtf.Dimension such"
            " as mtf.Dimension('d_model', 512)"
        )
    for name, value in switches.items():
        checks.boolean(where, name, value)
    checks.positive_int(where, "num_microbatches", num_microbatches)
    if variable_dtype is not None and not isinstance(variable_dtype, mtf.VariableDType):
        raise ValueError(
            f"{where}: variable_dtype is {variable_dtype!r}; it must be an"
            " mtf.VariableDType such as mtf.VariableDType(tf.float32), or None"
        )
    if importance is None:
        return
    if not isinstance(importance, mtf.Tensor):
        raise ValueError(
            f"{where}: importance is {importance!r}; it must be an mtf.Tensor with a"
            " number for each token, or None"
        )
    leading = inputs.shape.dims[:-1]
    if any(dim not in leading for dim in importance.shape.dims):
        raise ValueError(
            f"{where}: importance has the dimensions {importance.shape}, but the tokens of inputs"
            f" have {mtf.Shape(leading)}; give one number for each token, or for each index of some"
            " of these dimensions"
        )


def _sequence_size(tokens: mtf.Tensor, causal: bool) -> int:
    """Tokens [A, B, ..., M] that are routed together where none may be dropped."""
    return 1 if causal or len(tokens.shape) < 4 else tokens.shape.dims[-2].size


def _checked_embeddings(
    levels: Sequence[Level],
    inputs: mtf.Tensor,
    embeddings: mtf.Tensor | None,
    layout: MeshLayout,
) -> mtf.Tensor | None:
    """The embeddings if a gate asks for them, else None."""
    level = first_using_embeddings(levels)
    if level is None:
        return None
    depth = inputs.shape.dims[-1].name
    for each in levels:
        mode = each.router.gate.word_embeddings
        if mode and mode.startswith("concat") and layout.axis(depth):
            raise ValueError(
                f"level '{each.name}': word_embeddings is {mode!r}, but layout rule"
                f" '{depth}:{layout.axis(depth)}' splits the depth, along which nothing can be put"
                " behind it; use 'add' or 'embed_only', or remove the rule"
            )
    if embeddings is None or embeddings.shape != inputs.shape:
        given = "none are given" if embeddings is None else f"those given are {embeddings.shape}"
        raise ValueError(
            f"level '{level.name}': word_embeddings is {level.router.gate.word_embeddings!r}, which"
            f" needs embeddings of the shape of inputs, {inputs.shape}, but {given}; give"
            " embeddings=..., or set word_embeddings to None"
        )
    return embeddings


def _full_importance(inputs: mtf.Tensor, importance: mtf.Tensor | None) -> mtf.Tensor:
    """float32 importance with all leading dimensions of the inputs: 1, 0.5 or 0.

    Only three kinds of tokens matter, and a TPU's all-to-all, which rounds, must not make
    a nearly full token a full one.
    """
    shape = mtf.Shape(inputs.shape.dims[:-1])
    if importance is None:
        return mtf.ones(inputs.mesh, shape, dtype=tf.float32)
    importance = mtf.slicewise(
        Local(_of_kind),
        [importance],
        output_dtype=tf.float32,
        splittable_dims=importance.shape.dims,
        grad_function=0,
        name="importance",
    )
    return importance if importance.shape == shape else mtf.broadcast(importance, shape)


def _of_kind(importance: tf.Tensor) -> tf.Tensor:
    importance = tf.cast(importance, tf.float32)
    real, full = importance > 0, importance >= 1
    return (tf.cast(real, tf.float32) + tf.cast(full, tf.float32)) * 0.5


def _checked_levels(where: str, levels: Any) -> list[Level]:
    if not isinstance(levels, (list, tuple)) or not levels:
        raise ValueError(
            f"{where}: levels is {levels!r}; give a list of one to {MAX_LEVELS}"
            " hmoe.Level, outermost first"
        )
    if len(levels) > MAX_LEVELS:
        raise ValueError(
            f"{where}: there are {len(levels)} levels; {MAX_LEVELS} are the most."
            " Merge levels by multiplying their numbers of experts"
        )
    for number, level in enumerate(levels):
        if not isinstance(level, Level):
            raise ValueError(
                f"{where}: levels[{number}] is {level!r}; it must be an hmoe.Level"
                " (in gin: @outer/hmoe.Level(), with the brackets)"
            )
    names = [level.name for level in levels]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{where}: {names.count(name)} levels are called '{name}'; metrics"
                " and losses need a name for each, such as 'outer' and 'inner'"
            )
    return list(levels)


def _checked_part(where: str, field: str, part: Any, kind: type, or_none: str) -> Any:
    # Duck-typed, so that a user's own experts work: anything that can be called.
    if not callable(part) or isinstance(part, type):
        raise ValueError(
            f"{where}: {field} is {part!r}; it must be an object such as"
            f" hmoe.{kind.__name__}(hidden_size=2048){or_none} (in gin:"
            f" @hmoe.{kind.__name__}(), with the brackets)"
        )
    return part
