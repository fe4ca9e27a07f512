"""The mixture layer: a hierarchy of levels with experts at its end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from hmoe import checks
from hmoe.compat.stack import mtf, tf
from hmoe.config import Configuration, choice, configuration, setting, switch
from hmoe.dispatch.operations import ENGINES
from hmoe.experts.feed_forward import FeedForwardExperts, SharedExpert
from hmoe.layer import call_arguments, param_counts, parts
from hmoe.layer.aux_outputs import AuxSettings, aux_outputs
from hmoe.layer.kept_experts import check_kept
from hmoe.layer.level import Level
from hmoe.layer.level_shape import GroupRules, LevelShape
from hmoe.layer.metric_sums import DETAILS
from hmoe.layer.recursion import Call, LevelOutput, RoutedLevel, apply_level
from hmoe.layer.replay import check_replay
from hmoe.layer.token_batch import TokenBatch, first_using_embeddings, need_examples
from hmoe.mesh import batch_dims, example_ids
from hmoe.mesh.layout import MAX_LEVELS, MeshLayout
from hmoe.mesh.local_ops import unstacked, where_real
from hmoe.mesh.randomness import RandomSource
from hmoe.routing.balancing import BiasUpdate


@dataclasses.dataclass(frozen=True)
class MoEResult:
    """The result of a layer.

    Attributes:
      outputs: [<leading dimensions of inputs>, output_dim]; a list of such where experts have
        several outputs.
      losses: scalars "<level>/balance", "<level>/second_place" and "<level>/z", already weighted by
        the level's coefficients. Training adds their sum.
      metrics: sums and counts for `hmoe.layer.metrics.summarize`.
      bias_updates: in training, updates of levels that balance by a bias; apply them once a step
        with `hmoe.routing.balancing.apply_all`.
      routed: the levels after routing, outermost first; a trace is made from them.
    """

    outputs: mtf.Tensor | list[mtf.Tensor]
    losses: dict[str, mtf.Tensor]
    metrics: dict[str, mtf.Tensor]
    bias_updates: list[BiasUpdate]
    routed: tuple[RoutedLevel, ...]

    @property
    def shapes(self) -> tuple[LevelShape, ...]:
        """Sizes and dimensions of the levels, outermost first."""
        return tuple(each.shape for each in self.routed)

    @functools.cached_property
    def loss(self) -> mtf.Tensor:
        """The sum of the losses, float32."""
        return mtf.add_n(list(self.losses.values()))


def _checked_levels(where: str, field: str, value: object) -> tuple[Level, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(
            f"{where}: {field} is {value!r}; give a list of one to {MAX_LEVELS} hmoe.Level,"
            " outermost first"
        )
    if len(value) > MAX_LEVELS:
        raise ValueError(
            f"{where}: there are {len(value)} levels; {MAX_LEVELS} are the most. Merge levels by"
            " multiplying their numbers of experts"
        )
    for number, level in enumerate(value):
        if not isinstance(level, Level):
            raise ValueError(
                f"{where}: {field}[{number}] is {level!r}; it must be an hmoe.Level (in gin:"
                " @outer/hmoe.Level(), with the brackets)"
            )
    names = [level.name for level in value]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{where}: {names.count(name)} levels are called '{name}'; metrics and losses need"
                " a name for each, such as 'outer' and 'inner'"
            )
    return tuple(value)


def _can_be_called(value: object) -> bool:
    """Returns whether a value may be experts: a user's own are anything that can be called."""
    return callable(value) and not isinstance(value, type)


@configuration()
class HierarchicalMoE(Configuration):
    """A mixture of experts with one, two or three levels."""

    levels: Sequence[Level] = setting(
        doc="""The levels, outermost first. One makes a flat mixture. Two exchange tokens along two
        mesh axes. A third level is correct but cannot be sharded, since a T5 has only two batch
        dimensions.""",
        unit="list of 1 to 3 levels",
        source="Shazeer 2017, appendix B; Mesh TensorFlow `MoE2D`",
        check=_checked_levels,
    )
    experts: FeedForwardExperts = setting(
        doc="The experts at the end of the hierarchy.",
        unit="object",
        source="Shazeer 2017",
        check=checks.part("hmoe.FeedForwardExperts(hidden_size=2048)", _can_be_called),
    )
    shared_expert: SharedExpert | None = setting(
        None,
        doc="A dense layer whose output is added to that of the experts. None: no such layer.",
        unit="object",
        source="TF Model Garden `MoeLayerWithBackbone`; DeepSeekMoE; OLMo-core",
        check=checks.part("hmoe.SharedExpert(hidden_size=2048)", _can_be_called, or_none=True),
    )
    aux_loss_factor: float = setting(
        1.0,
        doc="Factor of all balance coefficients.",
        unit="factor",
        source="T5X `aux_loss_factor`",
        check=checks.non_negative_number,
    )
    router_z_loss_factor: float = setting(
        1.0,
        doc="Factor of all z-loss coefficients.",
        unit="factor",
        source="T5X `router_z_loss_factor`",
        check=checks.non_negative_number,
    )
    exact_groups: bool = switch(
        False,
        doc="""Whether it is an error, instead of a warning, that a mesh forces another group size
        than one device would have.""",
        source="hmoe",
    )
    inserted_outer_batch: int | None = setting(
        None,
        doc="""Size of the outer batch that is made where inputs have none. The same number on two
        meshes makes the same groups on both. None: the size of the mesh axis that `outer_batch` is
        split over.""",
        unit="parts of the batch",
        source="Mesh TensorFlow `outer_batch_size` (training alone)",
        check=checks.optional(checks.positive_int),
    )
    metrics: str = choice(
        "brief",
        DETAILS,
        doc="""Detail of the metrics: "brief", "full" (adds entropy, ranks, and the load of each
        expert), or "off". Losses are always included.""",
        source="hmoe",
    )
    engine: str = choice(
        "auto",
        ENGINES,
        doc="""How tokens are moved: "index" gathers rows, "einsum" multiplies by one-hot tensors,
        "auto" takes einsum on TPUs and index elsewhere. All give the same numbers up to
        rounding.""",
        source="hmoe",
    )
    seed: int = setting(
        0,
        doc="Seed of the layer's random numbers.",
        unit="whole number",
        source="hmoe",
        check=checks.non_negative_int,
    )

    def check_together(self) -> None:
        """Raises ValueError for a shared expert beside experts with several outputs."""
        if self.shared_expert is not None and self.num_outputs > 1:
            raise ValueError(
                f"{self.error_prefix()}: the experts have {self.num_outputs} outputs, to which a"
                " shared expert's one cannot be added; set shared_expert to None, or give the"
                " experts one output"
            )

    @property
    def num_outputs(self) -> int:
        """Outputs of each expert for one token."""
        # A user's own experts need not declare that they have one.
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
        mesh_shape: str | mtf.Shape | None = None,
        layout: str | mtf.LayoutRules | None = None,
        variable_dtype: mtf.VariableDType | None = None,
        num_microbatches: int = 1,
        drop_tokens: bool = True,
        causal: bool = False,
        kept_experts: Sequence[mtf.Tensor] | None = None,
        replay: mtf.Tensor | None = None,
    ) -> MoEResult:
        """Adds the layer to the graph.

        Args:
          inputs: [batch, ..., M] or [outer_batch, batch, ..., M].
          output_dim: N.
          train: whether training factors, policies and dropout apply.
          importance: a number or boolean for each token, [<leading dimensions of inputs>] or some
            of them: 1 for a full token, between 0 and 1 for one that gets a single expert, 0 for
            padding, whose contents reach nothing and whose outputs are 0. None: all tokens are
            full.
          embeddings: embeddings of the tokens' words, of the shape of inputs, if a gate asks for
            them.
          mesh_shape: the shape of the mesh, for example "rows:2;cols:4".
          layout: layout rules, for example
            "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows".
          variable_dtype: types of the variables; None: float32.
          num_microbatches: the number that losses are divided by, since training adds them up.
          drop_tokens: False makes each sequence (the last dimension before the depth; none among
            the batch dimensions) a group of its own, in which every expert has room for all tokens,
            whatever the level's group size and capacity: for predicting and scoring, where nothing
            may depend on other examples.
          causal: with `drop_tokens` False, makes each token a group of its own, so that a sequence
            that is read at once is routed as when it is decoded token by token.
          kept_experts: for each level which experts tokens may go to, from
            `hmoe.layer.kept_experts.import_kept`; weights are those among these. None: all.
          replay: float32 [<leading dimensions of inputs>, V], recorded choices of each token, which
            are taken in place of the routers' own; see `hmoe.layer.replay`. Weights are computed
            anew, so that gradients reach the gates. None: routers choose.

        Returns:
          Outputs [<leading dimensions of inputs>, N], losses, metric sums and bias updates.

        Raises:
          ValueError: an argument is of a wrong kind, layout, mesh and sizes do not fit, or
            embeddings are missing.
        """
        call_arguments.check_call(
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
        check_kept(self.levels, kept_experts)
        check_replay(
            self.levels,
            inputs.shape.dims[:-1],
            replay,
            leaves_experts_out=kept_experts is not None,
        )
        embeddings = call_arguments.needed_embeddings(self.levels, inputs, embeddings, mesh_layout)
        dims = batch_dims.batch_dims(inputs.shape.dims[:-1], mesh_layout, self.inserted_outer_batch)
        kinds = call_arguments.importance_kinds(inputs, importance)
        if importance is not None:
            inputs = where_real(inputs, kinds)
            embeddings = embeddings and where_real(embeddings, kinds)
        batch = self._token_batch(dims, inputs, embeddings, kinds, replay)
        sequence_size = None if drop_tokens else _sequence_size(batch.tokens, causal)
        rules = self._group_rules(batch, mesh_layout, train, sequence_size)
        call = self._call(
            rules,
            output_dim,
            variable_dtype,
            has_partial_tokens=importance is not None,
            kept_experts=kept_experts,
        )
        found = apply_level(call, 0, batch, [], batch.tokens.shape.dims[:2])
        outputs = self._outputs(call, dims, found, batch, inputs)
        if importance is not None:
            outputs = where_real(outputs, kinds)
        aux = aux_outputs(found.routed, self._aux_settings(rules, num_microbatches))
        several = unstacked(outputs, call.several[0]) if call.several else outputs
        return MoEResult(several, aux.losses, aux.sums, aux.bias_updates, tuple(found.routed))

    def _token_batch(
        self,
        dims: batch_dims.BatchDims,
        inputs: mtf.Tensor,
        embeddings: mtf.Tensor | None,
        importance: mtf.Tensor,
        replay: mtf.Tensor | None,
    ) -> TokenBatch:
        """Returns the tokens [A, B, ..., M] with everything that travels beside them."""
        tokens = dims.split(inputs)
        example = None
        if need_examples(self.levels):
            example = example_ids.example_ids(tokens.mesh, mtf.Shape(tokens.shape.dims[:-1]))
        return TokenBatch(
            tokens,
            embeddings and dims.split(embeddings),
            dims.split(importance),
            example,
            replay and dims.split(replay),
        )

    def _group_rules(
        self, batch: TokenBatch, layout: MeshLayout, train: bool, sequence_size: int | None
    ) -> GroupRules:
        num_examples = mtf.Shape(batch.tokens.shape.dims[:2]).size
        return GroupRules(layout, num_examples, train, self.exact_groups, sequence_size)

    def _call(
        self,
        rules: GroupRules,
        output_dim: mtf.Dimension,
        variable_dtype: mtf.VariableDType | None,
        *,
        has_partial_tokens: bool,
        kept_experts: Sequence[mtf.Tensor] | None,
    ) -> Call:
        outputs = mtf.Dimension("outputs", self.num_outputs)
        return Call(
            levels=self.levels,
            experts=self.experts,
            engine=self.engine,
            rules=rules,
            output_dim=output_dim,
            several=[outputs] if self.num_outputs > 1 else [],
            variable_dtype=variable_dtype or mtf.VariableDType(),
            has_partial_tokens=has_partial_tokens,
            random=RandomSource(self.seed, tf.get_variable_scope().name),
            kept_experts=kept_experts,
        )

    def _outputs(
        self,
        call: Call,
        dims: batch_dims.BatchDims,
        found: LevelOutput,
        batch: TokenBatch,
        inputs: mtf.Tensor,
    ) -> mtf.Tensor:
        """Returns [<leading dimensions of inputs>, *output_dims], with the shared expert."""
        # [A, G, S, *output_dims] -> [A, B, ..., *output_dims]
        shape = mtf.Shape(batch.tokens.shape.dims[:-1] + call.output_dims)
        outputs = dims.merge(mtf.reshape(found.outputs, shape))
        if self.shared_expert is None:
            return outputs
        with parts.within(inputs.graph, parts.EXPERTS):
            shared = self.shared_expert(
                inputs,
                call.output_dim,
                train=call.train,
                variable_dtype=call.variable_dtype,
                random=call.random.named("shared"),
            )
        return outputs + shared

    def _aux_settings(self, rules: GroupRules, num_microbatches: int) -> AuxSettings:
        return AuxSettings(
            train=rules.train,
            detail=self.metrics,
            aux_loss_factor=self.aux_loss_factor,
            router_z_loss_factor=self.router_z_loss_factor,
            num_microbatches=num_microbatches,
            num_examples=rules.num_examples,
        )

    def num_params(self, input_size: int, output_size: int) -> int:
        """Returns the number of parameters of the layer between depths of these sizes."""
        routed = param_counts.num_params(self.levels, self.experts, input_size, output_size)
        return routed + self._num_shared(input_size, output_size)

    def num_active_params(self, input_size: int, output_size: int) -> int:
        """Returns the number of parameters that one token can use at most."""
        active = param_counts.num_active_params(self.levels, self.experts, input_size, output_size)
        return active + self._num_shared(input_size, output_size)

    def _num_shared(self, input_size: int, output_size: int) -> int:
        return self.shared_expert.num_params(input_size, output_size) if self.shared_expert else 0


def _sequence_size(tokens: mtf.Tensor, causal: bool) -> int:
    """Returns how many of the tokens [A, B, ..., M] are routed together if none is dropped."""
    return 1 if causal or len(tokens.shape) < 4 else tokens.shape.dims[-2].size
