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
from collections.abc import Sequence
from typing import Any

from hmoe import checks, groups, losses, metrics, outer_batch
from hmoe.assignment import Assignment
from hmoe.compat.stack import mtf, tf
from hmoe.dispatch import Dispatcher, Exchange
from hmoe.experts import FeedForwardExperts, SharedExpert
from hmoe.layout import MAX_LEVELS, MeshLayout, expert_dimension_names, unsplit_name
from hmoe.levels import Level
from hmoe.randomness import RandomSource
from hmoe.routers.base import RoutingContext, Scores

# Upstream's names, so that its checkpoints load.
_GATING_NAMES = ("outer_gating", "inner_gating", "level_2_gating")


@dataclasses.dataclass(frozen=True)
class MoEResult:
    """What a layer returns.

    Attributes:
      outputs: [<as the inputs>, output_dim].
      losses: scalars "<level>/balance", "<level>/second_place" and "<level>/z", already
        weighted by the level's coefficients; training adds their sum.
      metrics: sums and counts for `hmoe.metrics.summarize`.
    """

    outputs: mtf.Tensor
    losses: dict[str, mtf.Tensor]
    metrics: dict[str, mtf.Tensor]

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
      metrics: whether to compute them; losses are always told.
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
        metrics: bool = True,
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
        self.metrics = checks.boolean(where, "metrics", metrics)
        self.seed = checks.non_negative_int(where, "seed", seed)

    def __call__(
        self,
        inputs: mtf.Tensor,
        output_dim: mtf.Dimension,
        *,
        train: bool,
        importance: mtf.Tensor | None = None,
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
          mesh_shape: for example "rows:2;cols:4".
          layout: for example "outer_batch:rows;batch:cols;expert_x:cols;expert_y:rows".
          variable_dtype: types of the variables; None: float32.
          num_microbatches: by which losses are divided, since their sum is trained on.
          drop_tokens: False gives every expert room for its whole group, so that no
            answer depends on its neighbours: for decoding.

        Returns:
          Outputs [<leading dimensions of inputs>, N], losses and metrics.

        Raises:
          ValueError: layout, mesh and sizes do not fit; before anything is built.
        """
        mesh_layout = MeshLayout(mesh_shape, layout)
        mesh_layout.check_levels(self.levels)
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
        outputs = call.run(tokens, dims.split(of_inputs))
        outputs = dims.merge(mtf.reshape(
            outputs, mtf.Shape(tokens.shape.dims[:-1] + [output_dim])))
        if self.shared_expert:
            outputs += call.shared(inputs, of_inputs)
        return MoEResult(outputs, call.losses, call.sums)

    def num_params(self, input_size: int, output_size: int) -> int:
        """Parameters of the layer, between depths of these sizes."""
        gating, families = 0, 1
        for level in self.levels:
            gating += families * input_size * level.num_experts
            families *= level.num_experts
        return (gating + families * self.experts.num_params(input_size, output_size)
                + self._num_shared(input_size, output_size))

    def num_active_params(self, input_size: int, output_size: int) -> int:
        """Parameters that one token can use at most.

        It meets one gating matrix at the first level and one for each destination it
        reaches further in; of 2 x 2 choices it reaches 3 experts, since a second
        choice goes to one expert only.
        """
        gating, reached = 0, 1
        for level in self.levels:
            gating += reached * input_size * level.num_experts
            reached += min(level.router.max_choices, level.num_experts) - 1
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
        self._variable_dtype = variable_dtype
        self._has_partial_tokens = has_partial_tokens
        self._random = random
        self._names = expert_dimension_names(len(moe.levels))
        self.losses: dict[str, mtf.Tensor] = {}
        self.sums: dict[str, mtf.Tensor] = {}

    def run(self, tokens: mtf.Tensor, importance: mtf.Tensor) -> mtf.Tensor:
        """[A, B, ..., M] -> [A, G, S, N], with losses and sums filled in."""
        self.sums["calls"] = mtf.constant(tokens.mesh, 1.0, dtype=tf.float32)
        outputs, reached, of_groups, num_slots = self._descend(
            0, tokens, importance, [], tokens.shape.dims[:2])
        if self._moe.metrics:
            self.sums.update(metrics.reached_sums(reached, of_groups, num_slots))
        return outputs

    def shared(self, inputs: mtf.Tensor, importance: mtf.Tensor) -> mtf.Tensor:
        """The shared expert's output, 0 for padding."""
        outputs = self._moe.shared_expert(
            inputs, self._output_dim, train=self._train, variable_dtype=self._variable_dtype,
            random=self._random.named("shared"))
        return outputs * mtf.cast(mtf.greater(importance, 0.0), outputs.dtype)

    def _descend(
        self,
        depth: int,
        tokens: mtf.Tensor,
        importance: mtf.Tensor,
        outer_experts: list[mtf.Dimension],
        batch: list[mtf.Dimension],
    ) -> tuple[mtf.Tensor, mtf.Tensor | None, mtf.Tensor, int]:
        """Applies the level at `depth` and all below.

        Args:
          depth: 0 for the first level.
          tokens: [*outer_experts, *batch, ..., M].
          importance: float32 [*outer_experts, *batch, ...].
          outer_experts: experts chosen above, innermost first.
          batch: batch dimensions not yet exchanged; the last one is this level's.

        Returns:
          Outputs [*outer_experts, *waiting, G, S, N]; what tokens reached
          [*outer_experts, *waiting, G, S, 2] (None without metrics); their importance
          in the same groups; and the number of innermost slots.
        """
        level = self._moe.levels[depth]
        place = self._place(depth, tokens, outer_experts, batch)
        tokens = self._into_groups(tokens, place, tokens.shape.dims[-1:])
        importance = self._into_groups(importance, place, [])
        scores, assignment = self._route(depth, level, tokens, importance, place)
        self._tell(level, scores, assignment, importance, outer_experts)
        dispatcher = Dispatcher(assignment, place.exchange, tokens.dtype)
        buffers = dispatcher.dispatch(tokens)
        outer = [place.exchange.experts, *outer_experts]
        if depth + 1 == len(self._moe.levels):
            outputs = self._apply_experts(buffers, outer)
            reached = _innermost(assignment) if self._moe.metrics else None
            return (dispatcher.combine(outputs), reached, importance,
                    mtf.Shape(buffers.shape.dims[:-1]).size)
        further = dispatcher.dispatch_per_choice(importance * _share_further_in(assignment))
        outputs, deeper, _, num_slots = self._descend(
            depth + 1, buffers, further, outer, batch[:-1])
        slots = buffers.shape.dims[:-1]
        outputs = mtf.reshape(outputs, mtf.Shape([*slots, self._output_dim]))
        reached = None
        if deeper is not None:
            reached = dispatcher.collect(
                mtf.reshape(deeper, mtf.Shape(slots + deeper.shape.dims[-1:])))
        return dispatcher.combine(outputs), reached, importance, num_slots

    def _apply_experts(
        self, buffers: mtf.Tensor, expert_dims: list[mtf.Dimension]
    ) -> mtf.Tensor:
        """[*expert_dims, ..., M] -> [*expert_dims, ..., N]."""
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
        size = groups.group_size(
            level.name, num_tokens, level.group_size, self._layout.num_splits(own),
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
        self, depth: int, level: Level, tokens: mtf.Tensor, importance: mtf.Tensor, place: _Place
    ) -> tuple[Scores, Assignment]:
        """Scores and assignment of one level; dimensions as in `_descend`."""
        name = (_GATING_NAMES[depth] if len(self._names) > 1 else level.router.variable_name())
        scores = level.router.score(
            tokens, place.exchange.experts_unsplit, place.outer_experts, self._variable_dtype, name)
        context = RoutingContext(
            self._train, self._has_partial_tokens or depth > 0, self._random.named(level.name),
            level.name)
        assignment = level.router.assign(
            scores, importance, place.capacity, f"expert_capacity{place.suffix}", context)
        return scores, assignment

    def _tell(
        self,
        level: Level,
        scores: Scores,
        assignment: Assignment,
        importance: mtf.Tensor,
        outer_experts: list[mtf.Dimension],
    ) -> None:
        """Adds the losses of a level to `losses`, and its sums to `sums`."""
        moe, choices = self._moe, assignment.choices
        raw = {"balance": losses.balance_loss(scores, choices, importance),
               "z": losses.router_z_loss(scores, importance)}
        factor = {"balance": moe.aux_loss_factor * level.balance_loss_coef,
                  "z": moe.router_z_loss_factor * level.z_loss_coef}
        if level.second_place_loss:
            raw["second_place"] = losses.second_place_loss(scores, choices, importance)
            factor["second_place"] = 0.5 * factor["balance"]
        weighted = {kind: raw[kind] * (factor[kind] / self._num_microbatches)
                    for kind in raw if factor[kind]}
        # A layer always has a loss to show and to add, if only a zero.
        weighted = weighted or {"balance": mtf.zeros_like(raw["balance"])}
        self.losses.update({f"{level.name}/{kind}": loss for kind, loss in weighted.items()})
        self.sums.update({f"{level.name}/{kind}_loss": loss for kind, loss in raw.items()})
        self.sums[f"{level.name}/weighted_loss"] = (
            mtf.add_n(list(weighted.values())) * float(self._num_microbatches))
        if moe.metrics:
            self.sums.update(metrics.level_sums(
                level.name, scores, assignment, importance, outer_experts))


def _share_further_in(assignment: Assignment) -> mtf.Tensor:
    """float32 [..., S, K]: what is left of a token's importance at its destination.

    All of it at the first choice, half at others; from the rank, never from weights.
    """
    later = mtf.cast(mtf.greater(assignment.choices.rank, 0), tf.float32)
    return 1.0 - 0.5 * later


def _innermost(assignment: Assignment) -> mtf.Tensor:
    """float32 [..., S, 2]: slots that a token fills at the last level, and their weights."""
    kept, weight = assignment.kept, mtf.stop_gradient(assignment.weight)
    choice = kept.shape.dims[-1]
    return mtf.stack([mtf.reduce_sum(kept, reduced_dim=choice),
                      mtf.reduce_sum(weight, reduced_dim=choice)], "reached", axis=-1)


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
