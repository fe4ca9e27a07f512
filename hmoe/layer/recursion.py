"""The recursion over the levels of a layer: group, route, dispatch, recurse, combine.

    tokens                     [A', B', ..., M]
    groups                     [A', G', S, M]
    dispatch, all-to-all       [X', A', G, C, M]
    the same, one level in     [X', H', T, M] -> [Y', X', H, D, M]
    experts                    [Y', X', H, D, N]
    and back                   ... -> [A', G', S, N]

A tick marks a dimension that is split over a mesh axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hmoe.compat.stack import mtf
from hmoe.dispatch.dispatcher import Dispatcher
from hmoe.experts.feed_forward import FeedForwardExperts
from hmoe.layer import parts
from hmoe.layer.level import Level
from hmoe.layer.level_shape import GroupRules, LevelShape, level_shape
from hmoe.layer.replay import own_entries
from hmoe.layer.token_batch import TokenBatch
from hmoe.mesh.layout import expert_dimension_names
from hmoe.mesh.randomness import RandomSource
from hmoe.routing.assignment import Assignment
from hmoe.routing.context import RoutingContext
from hmoe.routing.scores import Scores

# Upstream's names, so that its checkpoints load.
_GATING_NAMES = ("outer_gating", "inner_gating", "level_2_gating")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """One application of a layer: everything that is the same at all of its levels.

    Attributes:
      levels: outermost first.
      experts: the experts at the end of the hierarchy.
      engine: one of `hmoe.dispatch.operations.ENGINES`.
      rules: how tokens are divided into groups.
      output_dim: N.
      several: a dimension of several outputs for each token, or none: [] or [outputs].
      variable_dtype: types of the variables.
      has_partial_tokens: whether the first level has partial tokens or padding.
      random: source of random numbers.
      kept_experts: float32 [outer experts ..., X] for each level, 1 for experts that may be chosen;
        None: all of them.
    """

    levels: Sequence[Level]
    experts: FeedForwardExperts
    engine: str
    rules: GroupRules
    output_dim: mtf.Dimension
    several: list[mtf.Dimension]
    variable_dtype: mtf.VariableDType
    has_partial_tokens: bool
    random: RandomSource
    kept_experts: Sequence[mtf.Tensor] | None = None

    @property
    def train(self) -> bool:
        """Whether the layer is training."""
        return self.rules.train

    @property
    def output_dims(self) -> list[mtf.Dimension]:
        """The dimensions that an expert returns, [N] or [outputs, N]."""
        return [*self.several, self.output_dim]


@dataclasses.dataclass(frozen=True)
class RoutedLevel:
    """A level after routing: what losses and metrics are computed from.

    Attributes:
      level: its configuration.
      shape: its sizes and dimensions.
      batch: its tokens, in groups.
      scores: its scores.
      assignment: its assignment.
      dispatcher: moves values between its groups and its experts.
    """

    level: Level
    shape: LevelShape
    batch: TokenBatch
    scores: Scores
    assignment: Assignment
    dispatcher: Dispatcher


@dataclasses.dataclass(frozen=True)
class LevelOutput:
    """The output of a level and of all levels inside it.

    Attributes:
      outputs: in the groups of the level, [*leading, G, S, *output_dims].
      routed: the level and those inside it, outermost first.
    """

    outputs: mtf.Tensor
    routed: list[RoutedLevel]


def apply_level(
    call: Call,
    depth: int,
    batch: TokenBatch,
    outer_expert_dims: list[mtf.Dimension],
    batch_dims: list[mtf.Dimension],
) -> LevelOutput:
    """Applies a level and all levels inside it.

    Args:
      call: the application of the layer.
      depth: the number of the level, 0 for the first.
      batch: the tokens [*outer experts, *batch_dims, ..., M].
      outer_expert_dims: the experts of the levels above, outermost first.
      batch_dims: the batch dimensions that are not exchanged yet; the last one is this level's.
    """
    shape = _shape(call, depth, batch, outer_expert_dims, batch_dims)
    with parts.within(batch.tokens.graph, parts.DISPATCH, call.levels[depth].name):
        grouped = batch.grouped(shape)
    routed = _route(call, depth, grouped, shape)
    if depth + 1 == len(call.levels):
        inner = LevelOutput(_apply_experts(call, routed), [])
    else:
        sent = _dispatch(call, depth, routed)
        inner = apply_level(call, depth + 1, sent, shape.expert_dims, batch_dims[:-1])
    return LevelOutput(_combine(call, routed, inner), [routed, *inner.routed])


def _shape(
    call: Call,
    depth: int,
    batch: TokenBatch,
    outer_expert_dims: list[mtf.Dimension],
    batch_dims: list[mtf.Dimension],
) -> LevelShape:
    """Sizes the groups and buffers of a level."""
    return level_shape(
        call.levels[depth],
        depth,
        expert_dimension_names(len(call.levels))[depth],
        batch.importance.shape.dims,
        outer_expert_dims,
        batch_dims,
        call.rules,
    )


def _route(call: Call, depth: int, batch: TokenBatch, shape: LevelShape) -> RoutedLevel:
    """Scores experts, assigns tokens to them, and prepares their dispatch."""
    level, graph = call.levels[depth], batch.tokens.graph
    context = _routing_context(call, depth, shape, batch)
    with parts.within(graph, parts.ROUTER, level.name):
        scores = level.router.score(batch.tokens, batch.embeddings, context)
        assignment = level.router.assign(scores, batch.importance, context)
    with parts.within(graph, parts.DISPATCH, level.name):
        dispatcher = Dispatcher(assignment, shape.exchange, call.engine)
    return RoutedLevel(level, shape, batch, scores, assignment, dispatcher)


def _routing_context(
    call: Call, depth: int, shape: LevelShape, batch: TokenBatch
) -> RoutingContext:
    level = call.levels[depth]
    random = call.random.named(level.name)
    if call.rules.sequence_size is not None:
        # Each sequence draws the same numbers, whatever its neighbors.
        random = random.alike_before(shape.tokens_dim.name)
    is_hierarchy = len(call.levels) > 1
    return RoutingContext(
        level=level.name,
        train=call.train,
        has_partial_tokens=call.has_partial_tokens or depth > 0,
        experts_dim=shape.exchange.experts_unsplit,
        outer_expert_dims=shape.outer_expert_dims,
        capacity_dim=shape.capacity_dim,
        variable_dtype=call.variable_dtype,
        variable_scope=_GATING_NAMES[depth] if is_hierarchy else level.router.variable_name(),
        random=random,
        kept_experts=call.kept_experts and call.kept_experts[depth],
        replayed=batch.replay and own_entries(batch.replay, level),
    )


def _dispatch(call: Call, depth: int, routed: RoutedLevel) -> TokenBatch:
    """Sends tokens, with everything beside them, to the slots of a level."""
    with parts.within(routed.batch.tokens.graph, parts.DISPATCH, routed.level.name):
        return routed.batch.dispatched(
            routed.dispatcher,
            routed.assignment,
            call.levels[depth + 1 :],
            call.rules.num_examples,
        )


def _apply_experts(call: Call, routed: RoutedLevel) -> mtf.Tensor:
    """Sends tokens to the experts and applies these, to [*experts, ..., *output_dims]."""
    graph = routed.batch.tokens.graph
    with parts.within(graph, parts.DISPATCH, routed.level.name):
        slots = routed.dispatcher.dispatch(routed.batch.tokens)
    with parts.within(graph, parts.EXPERTS):
        return call.experts(
            slots,
            call.output_dim,
            routed.shape.expert_dims,
            train=call.train,
            variable_dtype=call.variable_dtype,
            random=call.random.named("experts"),
        )


def _combine(call: Call, routed: RoutedLevel, inner: LevelOutput) -> mtf.Tensor:
    """Sends outputs back to the groups of a level, to [*leading, G, S, *output_dims]."""
    outputs = inner.outputs
    with parts.within(outputs.graph, parts.DISPATCH, routed.level.name):
        if inner.routed:
            # The groups of the next level hold the slots of this one:
            # [..., H, T, N] -> [..., G, C, N]
            shape = mtf.Shape(routed.dispatcher.slot_dims + call.output_dims)
            outputs = mtf.reshape(outputs, shape)
        return routed.dispatcher.combine(outputs)
