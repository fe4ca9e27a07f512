"""The recursion over the levels of a layer.

    tokens                     [A', B', ..., M]
    groups                     [A', G', S, M]
    dispatch, all-to-all       [X', A', G, C, M]
    the same, one level in     [X', H', T, M] -> [Y', X', H, D, M]
    experts                    [Y', X', H, D, N]
    and back                   ... -> [A', G', S, N]

A tick marks a dimension that is split over a mesh axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hmoe.compat.stack import mtf, tf
from hmoe.dispatch.dispatcher import Dispatcher
from hmoe.layer import metrics
from hmoe.layer.aux_outputs import Told
from hmoe.layer.level import Level
from hmoe.layer.level_shape import Place, place_of_level
from hmoe.layer.token_batch import Arrivals, need_examples
from hmoe.mesh import example_ids
from hmoe.mesh.layout import MeshLayout, expert_dimension_names
from hmoe.mesh.local_ops import Local
from hmoe.mesh.randomness import RandomSource
from hmoe.routing.assignment import Assignment
from hmoe.routing.gate import Scores
from hmoe.routing.router import RoutingContext

if TYPE_CHECKING:
    from hmoe.layer.moe import HierarchicalMoE

# Upstream's names, so that its checkpoints load.
_GATING_NAMES = ("outer_gating", "inner_gating", "level_2_gating")


class Descent:
    """One application of a layer: what stays the same on all its levels.

    Attributes:
      output_dims: of what an expert returns, [N] or [outputs, N].
      told: losses, sums and biases, once `run` is done.
    """

    def __init__(
        self,
        moe: HierarchicalMoE,
        layout: MeshLayout,
        *,
        train: bool,
        num_microbatches: int,
        sequence_size: int | None,
        output_dim: mtf.Dimension,
        variable_dtype: mtf.VariableDType,
        has_partial_tokens: bool,
        random: RandomSource,
        num_examples: int,
    ):
        """Keeps the layer and the arguments of its call; see `HierarchicalMoE.__call__`."""
        self._moe = moe
        self._layout = layout
        self._train = train
        # Where given, groups are of this size and every expert has room for all of one.
        self._sequence_size = sequence_size
        self._output_dim = output_dim
        several = [mtf.Dimension("outputs", moe.num_outputs)] if moe.num_outputs > 1 else []
        self.output_dims = [*several, output_dim]
        self._variable_dtype = variable_dtype
        self._has_partial_tokens = has_partial_tokens
        self._random = random
        self._num_examples = num_examples
        self._names = expert_dimension_names(len(moe.levels))
        self._has_metrics = moe.metrics != "off"
        self.told = Told(
            train=train,
            detail=moe.metrics,
            aux_loss_factor=moe.aux_loss_factor,
            router_z_loss_factor=moe.router_z_loss_factor,
            num_microbatches=num_microbatches,
            num_examples=num_examples,
        )

    def run(
        self, tokens: mtf.Tensor, embeddings: mtf.Tensor | None, importance: mtf.Tensor
    ) -> mtf.Tensor:
        """[A, B, ..., M] -> [A, G, S, *output_dims]."""
        example = None
        if need_examples(self._moe.levels):
            example = example_ids.numbers(tokens.mesh, mtf.Shape(tokens.shape.dims[:-1]))
        outputs, reached, of_groups, num_slots = self._descend(
            0, Arrivals(tokens, embeddings, importance, example), [], tokens.shape.dims[:2]
        )
        if self._has_metrics:
            self.told.sums.update(metrics.reached_sums(reached, of_groups, num_slots))
        return outputs

    def shared(self, inputs: mtf.Tensor) -> mtf.Tensor:
        """The shared expert's output."""
        return self._moe.shared_expert(
            inputs,
            self._output_dim,
            train=self._train,
            variable_dtype=self._variable_dtype,
            random=self._random.named("shared"),
        )

    def _descend(
        self,
        depth: int,
        arrivals: Arrivals,
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
        place = self._place(depth, level, arrivals, outer_experts, batch)
        arrivals = arrivals.reshaped(place.into_groups)
        scores, assignment = self._route(depth, level, arrivals, place)
        self.told.tell(level, scores, assignment, arrivals, outer_experts)
        dispatcher = Dispatcher(assignment, place.exchange, self._moe.engine)
        outer = [place.exchange.experts, *outer_experts]
        reached = _placed(assignment) if self._has_metrics else None
        if depth + 1 == len(self._moe.levels):
            buffers = dispatcher.dispatch(arrivals.tokens)
            outputs = self._apply_experts(buffers, outer)
            return (
                dispatcher.combine(outputs),
                reached,
                arrivals.importance,
                mtf.Shape(buffers.shape.dims[:-1]).size,
            )
        further = arrivals.sent_on(
            dispatcher, assignment, self._moe.levels[depth + 1 :], self._num_examples
        )
        outputs, deeper, _, num_slots = self._descend(depth + 1, further, outer, batch[:-1])
        slots = further.importance.shape.dims
        outputs = mtf.reshape(outputs, mtf.Shape([*slots, *self.output_dims]))
        if deeper is not None:
            reached = _joined(
                reached,
                dispatcher.collect(mtf.reshape(deeper, mtf.Shape(slots + deeper.shape.dims[-1:]))),
            )
        return dispatcher.combine(outputs), reached, arrivals.importance, num_slots

    def _apply_experts(self, buffers: mtf.Tensor, expert_dims: list[mtf.Dimension]) -> mtf.Tensor:
        """[*expert_dims, ..., M] -> [*expert_dims, ..., *output_dims]."""
        return self._moe.experts(
            buffers,
            self._output_dim,
            expert_dims,
            train=self._train,
            variable_dtype=self._variable_dtype,
            random=self._random.named("experts"),
        )

    def _place(
        self,
        depth: int,
        level: Level,
        arrivals: Arrivals,
        outer_experts: list[mtf.Dimension],
        batch: list[mtf.Dimension],
    ) -> Place:
        return place_of_level(
            level,
            self._names[depth],
            arrivals.importance.shape.dims,
            outer_experts,
            batch,
            self._layout,
            num_examples=self._num_examples,
            capacity_factor=level.capacity_factor(train=self._train, depth=depth),
            exact_groups=self._moe.exact_groups,
            sequence_size=self._sequence_size,
        )

    def _route(
        self, depth: int, level: Level, arrivals: Arrivals, place: Place
    ) -> tuple[Scores, Assignment]:
        """Scores and assignment of one level; dimensions as in `_descend`."""
        name = _GATING_NAMES[depth] if len(self._names) > 1 else level.router.variable_name()
        random = self._random.named(level.name)
        if self._sequence_size is not None:
            random = random.alike_before(arrivals.importance.shape.dims[-1].name)
        context = RoutingContext(
            self._train, self._has_partial_tokens or depth > 0, random, level.name
        )
        scores = level.router.score(
            arrivals.tokens,
            arrivals.embeddings,
            place.exchange.experts_unsplit,
            place.outer_experts,
            self._variable_dtype,
            name,
            context,
        )
        assignment = level.router.assign(
            scores, arrivals.importance, place.capacity, f"expert_capacity{place.suffix}", context
        )
        return scores, assignment


def _placed(assignment: Assignment) -> mtf.Tensor:
    """float32 [..., S, 2]: slots that a token fills at a level, and the sum of their weights."""
    kept = assignment.kept
    tokens = kept.shape.dims[:-1]
    return mtf.slicewise(
        Local(_sums_over_choices),
        [kept, assignment.weight],
        output_shape=mtf.Shape([*tokens, mtf.Dimension("reached", 2)]),
        splittable_dims=tokens,
        grad_function=0,
        name="placed",
    )


def _sums_over_choices(*of_choices: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.stack(of_choices, axis=-1), axis=-2)


def _joined(placed: mtf.Tensor, deeper: mtf.Tensor) -> mtf.Tensor:
    """[..., S, levels + 1]: slots filled at this level, before what was reached deeper."""
    return mtf.concat([mtf.slice(placed, 0, 1, "reached"), deeper], "reached")
