"""The hierarchy: one recursion over its levels.

    tokens                     [A', B', ..., M]
    groups                     [A', G', S, M]
    dispatch, all-to-all       [X', A', G, C, M]
    the same, one level in     [X', H', T, M] -> [Y', X', H, D, M]
    experts                    [Y', X', H, D, N]
    and back                   ... -> [A', G', S, N] -> [A', B', ..., N]

A tick marks a dimension that is split over a mesh axis.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from hmoe import checks, examples, groups, losses, metrics, outer_batch
from hmoe.assignment import Assignment
from hmoe.balancing import BiasUpdate
from hmoe.compat.stack import mtf, tf
from hmoe.dispatch import Dispatcher, Exchange
from hmoe.experts import FeedForwardExperts, SharedExpert
from hmoe.layout import MAX_LEVELS, MeshLayout, expert_dimension_names, unsplit_name
from hmoe.levels import Level
from hmoe.metrics import DETAILS
from hmoe.randomness import RandomSource
from hmoe.routers.base import RoutingContext
from hmoe.routers.gate import Scores

# Upstream's names, so that its checkpoints load.
_GATING_NAMES = ("outer_gating", "inner_gating", "level_2_gating")


@dataclasses.dataclass(frozen=True)
class MoEResult:
    """What a layer returns.

    Attributes:
      outputs: [<as the inputs>, output_dim]; of experts with several outputs a list.
      losses: scalars "<level>/balance", "<level>/second_place" and "<level>/z", already
        weighted by the level's coefficients; training adds their sum.
      metrics: sums and counts for `hmoe.metrics.summarize`.
      bias_updates: of levels that balance by a bias, in training; apply them once a step
        with `hmoe.balancing.apply_all`.
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
        self.shared_expert: Any = None if shared_expert is None else _checked_part(
            where, "shared_expert", shared_expert, SharedExpert, ", or None")
        self.aux_loss_factor = checks.non_negative_number(
            where, "aux_loss_factor", aux_loss_factor)
        self.router_z_loss_factor = checks.non_negative_number(
            where, "router_z_loss_factor", router_z_loss_factor)
        self.exact_groups = checks.boolean(where, "exact_groups", exact_groups)
        self.inserted_outer_batch = None if inserted_outer_batch is None else (
            checks.positive_int(where, "inserted_outer_batch", inserted_outer_batch))
        self.metrics = checks.one_of(where, "metrics", metrics, DETAILS)
        self.seed = checks.non_negative_int(where, "seed", seed)
        if shared_expert is not None and self._num_outputs > 1:
            raise ValueError(
                f"{where}: the experts have {self._num_outputs} outputs, to which a shared expert's"
                " one cannot be added; set shared_expert to None, or give the experts one output")

    @property
    def _num_outputs(self) -> int:
        # A user's own experts need not say that they have one.
        return getattr(self.experts, "num_outputs", 1)

    @property
    def uses_embeddings(self) -> bool:
        """Whether a gate at any level asks for the embeddings of the tokens' words."""
        return _first_using_embeddings(self.levels) is not None

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
    ) -> MoEResult:
        """Adds the layer to the graph.

        Args:
          inputs: [batch, ..., M] or [outer_batch, batch, ..., M].
          output_dim: N.
          train: whether training factors, policies and dropout apply.
          importance: per token, a tensor [<leading dimensions of inputs>] or some of
            them; 1 a full token, between 0 and 1 one that gets a single expert, 0
            padding. None: all are full.
          embeddings: of the tokens' words, of the shape of inputs, if a gate asks for
            them.
          mesh_shape: for example "rows:2;cols:4".
          layout: for example "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows".
          variable_dtype: types of the variables; None: float32.
          num_microbatches: by which losses are divided, since their sum is trained on.
          drop_tokens: False gives every expert room for its whole group, so that no
            answer depends on its neighbours: for decoding.

        Returns:
          Outputs [<leading dimensions of inputs>, N], losses and metrics.

        Raises:
          ValueError: layout, mesh and sizes do not fit, or embeddings are missing; before
            anything is built.
        """
        mesh_layout = MeshLayout(mesh_shape, layout)
        mesh_layout.check_levels(self.levels)
        embeddings = _checked_embeddings(self.levels, inputs, embeddings, mesh_layout)
        dims = outer_batch.batch_dims(
            inputs.shape.dims[:-1], mesh_layout, self.inserted_outer_batch)
        call = _Call(
            self, mesh_layout, train=train, num_microbatches=num_microbatches,
            drop_tokens=drop_tokens, output_dim=output_dim,
            variable_dtype=variable_dtype or mtf.VariableDType(),
            has_partial_tokens=importance is not None,
            random=RandomSource(self.seed, tf.get_variable_scope().name))
        of_inputs = _full_importance(inputs, importance)
        tokens = dims.split(inputs)
        outputs = call.run(tokens, embeddings and dims.split(embeddings), dims.split(of_inputs))
        outputs = dims.merge(mtf.reshape(
            outputs, mtf.Shape(tokens.shape.dims[:-1] + call.output_dims)))
        if self.shared_expert:
            outputs += call.shared(inputs, of_inputs)
        if self._num_outputs > 1:
            outputs = _parts(outputs, call.output_dims[0])
        return MoEResult(outputs, call.losses, call.sums, call.bias_updates)

    def num_params(self, input_size: int, output_size: int) -> int:
        """Parameters of the layer, between depths of these sizes."""
        gating, families = 0, 1
        for level in self.levels:
            gating += families * level.router.gate.num_params(input_size, level.num_experts)
            families *= level.num_experts
        return (gating + families * self.experts.num_params(input_size, output_size)
                + self._num_shared(input_size, output_size))

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
        return (gating + reached * self.experts.num_params(input_size, output_size)
                + self._num_shared(input_size, output_size))

    def _num_shared(self, input_size: int, output_size: int) -> int:
        return self.shared_expert.num_params(input_size, output_size) if self.shared_expert else 0


@dataclasses.dataclass(frozen=True)
class _Place:
    """Sizes and names of one level in one call.

    Attributes:
      leading: dimensions before the groups: outer experts, then batch dimensions that
        wait for further levels.
      outer_experts: the outer experts among them, innermost first.
      exchange: the dimensions that swap.
      group_size: S.
      capacity: C.
      suffix: of the names of S and C.
    """

    leading: list[mtf.Dimension]
    outer_experts: list[mtf.Dimension]
    exchange: Exchange
    group_size: int
    capacity: int
    suffix: str


@dataclasses.dataclass(frozen=True)
class _Arrivals:
    """What comes to a level.

    Attributes:
      tokens: [..., M].
      embeddings: [..., M], of their words; None where no gate from here on asks for them.
      importance: float32 [...].
      example: float32 [...], the number of the example that each is of; None where no
        loss from here on asks for it.
    """

    tokens: mtf.Tensor
    embeddings: mtf.Tensor | None
    importance: mtf.Tensor
    example: mtf.Tensor | None

    def reshaped(
        self, reshape: Callable[[mtf.Tensor, list[mtf.Dimension]], mtf.Tensor]
    ) -> _Arrivals:
        """The same after `reshape(tensor, trailing dimensions to keep)` of each."""
        depth = self.tokens.shape.dims[-1:]
        return _Arrivals(
            reshape(self.tokens, depth),
            self.embeddings and reshape(self.embeddings, depth),
            reshape(self.importance, []),
            self.example and reshape(self.example, []))


class _Call:
    """One application of a layer: what stays the same on all its levels."""

    def __init__(
        self,
        moe: HierarchicalMoE,
        layout: MeshLayout,
        *,
        train: bool,
        num_microbatches: int,
        drop_tokens: bool,
        output_dim: mtf.Dimension,
        variable_dtype: mtf.VariableDType,
        has_partial_tokens: bool,
        random: RandomSource,
    ):
        self._moe = moe
        self._layout = layout
        self._train = train
        self._num_microbatches = num_microbatches
        self._drop_tokens = drop_tokens
        self._output_dim = output_dim
        outputs = moe._num_outputs
        self.output_dims = [mtf.Dimension("outputs", outputs)] * (outputs > 1) + [output_dim]
        self._variable_dtype = variable_dtype
        self._has_partial_tokens = has_partial_tokens
        self._random = random
        self._names = expert_dimension_names(len(moe.levels))
        self.losses: dict[str, mtf.Tensor] = {}
        self.sums: dict[str, mtf.Tensor] = {}
        self.bias_updates: list[BiasUpdate] = []
        self._has_metrics = moe.metrics != "off"
        self._num_examples = 0

    def run(
        self, tokens: mtf.Tensor, embeddings: mtf.Tensor | None, importance: mtf.Tensor
    ) -> mtf.Tensor:
        """[A, B, ..., M] -> [A, G, S, N], with losses and sums filled in."""
        self.sums["calls"] = mtf.constant(tokens.mesh, 1.0, dtype=tf.float32)
        batch = tokens.shape.dims[:2]
        self._num_examples = mtf.Shape(batch).size
        example = None
        if self._needs_examples(0):
            example = examples.numbers(tokens.mesh, mtf.Shape(tokens.shape.dims[:-1]))
        outputs, reached, of_groups, num_slots = self._descend(
            0, _Arrivals(tokens, embeddings, importance, example), [], batch)
        if self._has_metrics:
            self.sums.update(metrics.reached_sums(reached, of_groups, num_slots))
        return outputs

    def shared(self, inputs: mtf.Tensor, importance: mtf.Tensor) -> mtf.Tensor:
        """The shared expert's output, 0 for padding."""
        outputs = self._moe.shared_expert(
            inputs, self._output_dim, train=self._train, variable_dtype=self._variable_dtype,
            random=self._random.named("shared"))
        return outputs * mtf.cast(mtf.greater(importance, 0.0), outputs.dtype)

    def _needs_examples(self, depth: int) -> bool:
        """Whether a loss at this depth or deeper tells examples apart."""
        return any(level.balance_loss_over == "example" for level in self._moe.levels[depth:])

    def _descend(
        self,
        depth: int,
        arrivals: _Arrivals,
        outer_experts: list[mtf.Dimension],
        batch: list[mtf.Dimension],
    ) -> tuple[mtf.Tensor, mtf.Tensor | None, mtf.Tensor, int]:
        """Applies the level at `depth` and all below.

        Args:
          depth: 0 for the first level.
          arrivals: what comes to this level, [*outer_experts, *batch, ...].
          outer_experts: experts chosen above, innermost first.
          batch: batch dimensions not yet exchanged; the last one is this level's.

        Returns:
          Outputs [*outer_experts, *waiting, G, S, N]; what tokens reached
          [*outer_experts, *waiting, G, S, levels from here + 1] (None without metrics);
          their importance in the same groups; and the number of innermost slots.
        """
        level = self._moe.levels[depth]
        place = self._place(depth, arrivals.tokens, outer_experts, batch)
        arrivals = arrivals.reshaped(lambda tensor, trailing: self._into_groups(
            tensor, place, trailing))
        scores, assignment = self._route(depth, level, arrivals, place)
        self._tell(level, scores, assignment, arrivals, outer_experts)
        dispatcher = Dispatcher(assignment, place.exchange, arrivals.tokens.dtype)
        outer = [place.exchange.experts, *outer_experts]
        reached = _placed(assignment) if self._has_metrics else None
        if depth + 1 == len(self._moe.levels):
            buffers = dispatcher.dispatch(arrivals.tokens)
            outputs = self._apply_experts(buffers, outer)
            return (dispatcher.combine(outputs), reached, arrivals.importance,
                    mtf.Shape(buffers.shape.dims[:-1]).size)
        further = self._dispatch(depth, dispatcher, assignment, arrivals)
        outputs, deeper, _, num_slots = self._descend(depth + 1, further, outer, batch[:-1])
        slots = further.importance.shape.dims
        outputs = mtf.reshape(outputs, mtf.Shape([*slots, *self.output_dims]))
        if deeper is not None:
            reached = _joined(reached, dispatcher.collect(
                mtf.reshape(deeper, mtf.Shape(slots + deeper.shape.dims[-1:]))))
        return dispatcher.combine(outputs), reached, arrivals.importance, num_slots

    def _dispatch(
        self, depth: int, dispatcher: Dispatcher, assignment: Assignment, arrivals: _Arrivals
    ) -> _Arrivals:
        """What arrives one level further in, [X', *outer_experts, *waiting, G, C, ...]."""
        tokens, embeddings = arrivals.tokens, None
        if _first_using_embeddings(self._moe.levels[depth + 1:]):
            # Beside the token, so that one all-to-all carries both.
            pair = mtf.stack([tokens, arrivals.embeddings], "token_and_word",
                             axis=len(tokens.shape) - 1)
            pair = dispatcher.dispatch(pair)
            tokens, embeddings = _parts(pair, pair.shape.dims[-2])
        else:
            tokens = dispatcher.dispatch(tokens)
        fields = [arrivals.importance * _share_further_in(assignment)]
        example = None
        if self._needs_examples(depth + 1):
            fields += examples.digits(arrivals.example, self._num_examples)
            fields = [mtf.broadcast(each, assignment.kept.shape) for each in fields]
        importance, *digits = dispatcher.dispatch_per_choice(fields)
        if digits:
            example = examples.from_digits(digits)
        return _Arrivals(tokens, embeddings, importance, example)

    def _apply_experts(
        self, buffers: mtf.Tensor, expert_dims: list[mtf.Dimension]
    ) -> mtf.Tensor:
        """[*expert_dims, ..., M] -> [*expert_dims, ..., *output_dims]."""
        return self._moe.experts(
            buffers, self._output_dim, expert_dims, train=self._train,
            variable_dtype=self._variable_dtype, random=self._random.named("experts"))

    def _place(
        self,
        depth: int,
        tokens: mtf.Tensor,
        outer_experts: list[mtf.Dimension],
        batch: list[mtf.Dimension],
    ) -> _Place:
        """Sizes of the level at `depth`, and the dimensions that it swaps."""
        level, name = self._moe.levels[depth], self._names[depth]
        # A third level has no batch dimension of its own: nothing of it is split.
        waiting, own = batch[:-1], batch[-1].name if batch else "innermost_batch_unsplit"
        leading = outer_experts + waiting
        num_tokens = mtf.Shape(tokens.shape.dims[len(leading):-1]).size
        asked = level.group_size
        if level.examples_per_group is not None:
            num_places = mtf.Shape(tokens.shape.dims[len(outer_experts):-1]).size
            asked = groups.size_of_examples(
                level.name, level.examples_per_group, self._num_examples, num_places, num_tokens)
        size = groups.group_size(
            level.name, num_tokens, asked, self._layout.num_splits(own),
            num_experts=level.num_experts, exact=self._moe.exact_groups)
        capacity = size
        if self._drop_tokens:
            capacity = groups.expert_capacity(
                level.name, size, level.capacity_factor(train=self._train, depth=depth),
                level.num_experts, level.min_capacity)
        num_groups = num_tokens // size
        exchange = Exchange(
            mtf.Dimension(own, num_groups), mtf.Dimension(f"{own}_unsplit", num_groups),
            mtf.Dimension(name, level.num_experts),
            mtf.Dimension(unsplit_name(name), level.num_experts))
        suffix = name[len("expert"):] if len(self._names) > 1 else ""
        return _Place(leading, outer_experts, exchange, size, capacity, suffix)

    def _into_groups(
        self, tensor: mtf.Tensor, place: _Place, trailing: list[mtf.Dimension]
    ) -> mtf.Tensor:
        """[*leading, ..., *trailing] -> [*leading, G, S, *trailing]."""
        return groups.into_groups(
            tensor, place.leading, trailing, place.exchange.group.name,
            (place.exchange.group.size, place.group_size), f"group_size{place.suffix}")

    def _route(
        self, depth: int, level: Level, arrivals: _Arrivals, place: _Place
    ) -> tuple[Scores, Assignment]:
        """Scores and assignment of one level; dimensions as in `_descend`."""
        name = (_GATING_NAMES[depth] if len(self._names) > 1 else level.router.variable_name())
        context = RoutingContext(
            self._train, self._has_partial_tokens or depth > 0, self._random.named(level.name),
            level.name)
        scores = level.router.score(
            arrivals.tokens, arrivals.embeddings, place.exchange.experts_unsplit,
            place.outer_experts, self._variable_dtype, name, context)
        assignment = level.router.assign(
            scores, arrivals.importance, place.capacity, f"expert_capacity{place.suffix}", context)
        return scores, assignment

    def _tell(
        self,
        level: Level,
        scores: Scores,
        assignment: Assignment,
        arrivals: _Arrivals,
        outer_experts: list[mtf.Dimension],
    ) -> None:
        """Adds the losses of a level to `losses`, its sums to `sums`, its bias to move."""
        self._tell_losses(level, scores, assignment, arrivals, outer_experts)
        moves_bias = scores.balance_bias is not None and self._train
        if self._has_metrics or moves_bias:
            self.sums[metrics.load_name(level.name)] = metrics.level_load(
                assignment, outer_experts)
        if self._has_metrics:
            self.sums.update(metrics.level_sums(
                level.name, scores, assignment, arrivals.importance, outer_experts,
                self._moe.metrics))
        if moves_bias:
            self.bias_updates.append(BiasUpdate(
                scores.balance_bias, metrics.load_name(level.name), scores.bias_update_rate))

    def _tell_losses(
        self,
        level: Level,
        scores: Scores,
        assignment: Assignment,
        arrivals: _Arrivals,
        outer_experts: list[mtf.Dimension],
    ) -> None:
        moe, choices, importance = self._moe, assignment.choices, arrivals.importance
        pool = self._pool(level, arrivals, outer_experts)
        raw = {"balance": level.router.balance_loss(
                   scores, assignment, importance, pool, level.balance_loss_choices),
               "z": losses.router_z_loss(scores, importance)}
        factor = {"balance": moe.aux_loss_factor * level.balance_loss_coef,
                  "z": moe.router_z_loss_factor * level.z_loss_coef}
        if level.second_place_loss:
            raw["second_place"] = losses.second_place_loss(scores, choices, importance, pool)
            factor["second_place"] = 0.5 * factor["balance"]
        weighted = {kind: raw[kind] * (factor[kind] / self._num_microbatches)
                    for kind in raw if factor[kind]}
        # A layer always has a loss to show and to add, if only a zero.
        weighted = weighted or {"balance": mtf.zeros_like(raw["balance"])}
        self.losses.update({f"{level.name}/{kind}": loss for kind, loss in weighted.items()})
        self.sums.update({f"{level.name}/{kind}_loss": loss for kind, loss in raw.items()})
        self.sums[f"{level.name}/weighted_loss"] = (
            mtf.add_n(list(weighted.values())) * float(self._num_microbatches))

    def _pool(
        self, level: Level, arrivals: _Arrivals, outer_experts: list[mtf.Dimension]
    ) -> losses.Pool:
        """What the balance loss of a level is averaged over."""
        if level.balance_loss_over == "group":
            return losses.group_pool(arrivals.importance)
        if level.balance_loss_over == "batch":
            return losses.batch_pool(arrivals.importance, outer_experts)
        return losses.example_pool(
            mtf.cast(arrivals.example, tf.int32), self._num_examples, outer_experts)


def _parts(tensor: mtf.Tensor, dim: mtf.Dimension) -> list[mtf.Tensor]:
    """As `mtf.unstack`, whose gradient fails where one of the parts is not used."""
    shape = tensor.shape - dim
    return [mtf.reshape(mtf.slice(tensor, number, 1, dim.name), shape)
            for number in range(dim.size)]


def _share_further_in(assignment: Assignment) -> mtf.Tensor:
    """float32 [..., S, K]: what is left of a token's importance at its destination.

    All of it at the first choice, half at others; from the rank, never from weights.
    """
    later = mtf.cast(mtf.greater(assignment.choices.rank, 0), tf.float32)
    return 1.0 - 0.5 * later


def _placed(assignment: Assignment) -> mtf.Tensor:
    """float32 [..., S, 2]: slots that a token fills at a level, and the sum of their weights."""
    kept, weight = assignment.kept, mtf.stop_gradient(assignment.weight)
    choice = kept.shape.dims[-1]
    return mtf.stack([mtf.reduce_sum(kept, reduced_dim=choice),
                      mtf.reduce_sum(weight, reduced_dim=choice)], "reached", axis=-1)


def _joined(placed: mtf.Tensor, deeper: mtf.Tensor) -> mtf.Tensor:
    """[..., S, levels + 1]: slots filled at this level, before what was reached deeper."""
    return mtf.concat([mtf.slice(placed, 0, 1, "reached"), deeper], "reached")


def _reached_further(reached: int, level: Level) -> int:
    """Destinations that a token can have after a level, of so many before it."""
    if level.router.max_choices is None:
        return reached * level.num_experts
    # Later choices are partial tokens further in: they get one expert each.
    return reached + level.router.num_choices(level.num_experts) - 1


def _first_using_embeddings(levels: Sequence[Level]) -> Level | None:
    for level in levels:
        if level.router.gate.word_embeddings:
            return level
    return None


def _checked_embeddings(
    levels: Sequence[Level],
    inputs: mtf.Tensor,
    embeddings: mtf.Tensor | None,
    layout: MeshLayout,
) -> mtf.Tensor | None:
    """The embeddings if a gate asks for them, else None."""
    level = _first_using_embeddings(levels)
    if level is None:
        return None
    depth = inputs.shape.dims[-1].name
    for each in levels:
        mode = each.router.gate.word_embeddings
        if mode and mode.startswith("concat") and layout.axis(depth):
            raise ValueError(
                f"level '{each.name}': word_embeddings is {mode!r}, but layout rule"
                f" '{depth}:{layout.axis(depth)}' splits the depth, along which nothing can be put"
                " behind it; use 'add' or 'embed_only', or remove the rule")
    if embeddings is None or embeddings.shape != inputs.shape:
        given = "none are given" if embeddings is None else f"those given are {embeddings.shape}"
        raise ValueError(
            f"level '{level.name}': word_embeddings is {level.router.gate.word_embeddings!r}, which"
            f" needs embeddings of the shape of inputs, {inputs.shape}, but {given}; give"
            " embeddings=..., or set word_embeddings to None")
    return embeddings


def _full_importance(inputs: mtf.Tensor, importance: mtf.Tensor | None) -> mtf.Tensor:
    """float32 importance with all leading dimensions of the inputs."""
    shape = mtf.Shape(inputs.shape.dims[:-1])
    if importance is None:
        return mtf.ones(inputs.mesh, shape, dtype=tf.float32)
    importance = mtf.cast(importance, tf.float32)
    return importance if importance.shape == shape else mtf.broadcast(importance, shape)


def _checked_levels(where: str, levels: Any) -> list[Level]:
    if not isinstance(levels, (list, tuple)) or not levels:
        raise ValueError(f"{where}: levels is {levels!r}; give a list of one to {MAX_LEVELS}"
                         " hmoe.Level, outermost first")
    if len(levels) > MAX_LEVELS:
        raise ValueError(f"{where}: there are {len(levels)} levels; {MAX_LEVELS} are the most."
                         " Merge levels by multiplying their numbers of experts")
    for number, level in enumerate(levels):
        if not isinstance(level, Level):
            raise ValueError(f"{where}: levels[{number}] is {level!r}; it must be an hmoe.Level"
                             " (in gin: @outer/hmoe.Level(), with the brackets)")
    names = [level.name for level in levels]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{where}: {names.count(name)} levels are called '{name}'; metrics"
                             " and losses need a name for each, such as 'outer' and 'inner'")
    return list(levels)


def _checked_part(where: str, field: str, part: Any, kind: type, or_none: str) -> Any:
    # Duck-typed, so that a user's own experts work: anything that can be called.
    if not callable(part) or isinstance(part, type):
        raise ValueError(f"{where}: {field} is {part!r}; it must be an object such as"
                         f" hmoe.{kind.__name__}(hidden_size=2048){or_none} (in gin:"
                         f" @hmoe.{kind.__name__}(), with the brackets)")
    return part
