"""The tokens that come to a level, with everything that travels beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hmoe.compat.stack import mtf, tf
from hmoe.dispatch.dispatcher import Dispatcher
from hmoe.layer.level import Level
from hmoe.layer.level_shape import LevelShape
from hmoe.layer.replay import inner_vectors, vector_dim
from hmoe.mesh import example_ids
from hmoe.mesh.local_ops import unstacked
from hmoe.routing.assignment import Assignment


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """The tokens that come to a level.

    Attributes:
      tokens: [..., M].
      embeddings: [..., M], of the tokens' words; None where no gate from here on asks for them.
      importance: float32 [...].
      example: float32 [...], the number of each token's example; None where no loss from here on
        asks for it.
      replay: float32 [..., V], the choices that each token replays; see `hmoe.layer.replay`. None:
        routers choose.
    """

    tokens: mtf.Tensor
    embeddings: mtf.Tensor | None
    importance: mtf.Tensor
    example: mtf.Tensor | None
    replay: mtf.Tensor | None = None

    def grouped(self, shape: LevelShape) -> TokenBatch:
        """Reshapes the batch into groups, [*leading, G, S, ...] each."""
        depth = self.tokens.shape.dims[-1:]
        return TokenBatch(
            shape.into_groups(self.tokens, depth),
            self.embeddings and shape.into_groups(self.embeddings, depth),
            shape.into_groups(self.importance, []),
            self.example and shape.into_groups(self.example, []),
            self.replay and shape.into_groups(self.replay, self.replay.shape.dims[-1:]),
        )

    def dispatched(
        self,
        dispatcher: Dispatcher,
        assignment: Assignment,
        further: Sequence[Level],
        num_examples: int,
    ) -> TokenBatch:
        """Sends the batch to the slots of a level, where it is the batch of the next level.

        Args:
          dispatcher: the dispatcher of this level.
          assignment: the assignment of this level.
          further: the levels from the next one on, which determine what travels.
          num_examples: examples in the whole batch.

        Returns:
          A batch [X', *outer experts, *waiting batch dimensions, G, C, ...].
        """
        tokens, embeddings = self.tokens, None
        if first_using_embeddings(further):
            # In one tensor, so that one all-to-all carries both.
            pair = mtf.stack(
                [tokens, self.embeddings], "token_and_word", axis=len(tokens.shape) - 1
            )
            pair = dispatcher.dispatch(pair)
            tokens, embeddings = unstacked(pair, pair.shape.dims[-2])
        else:
            tokens = dispatcher.dispatch(tokens)
        fields = [_importance_further_in(self.importance, assignment)]
        if need_examples(further):
            fields += example_ids.to_digits(self.example, num_examples)
            fields = [mtf.broadcast(each, assignment.kept.shape) for each in fields]
        num_digits = len(fields) - 1
        if self.replay is not None:
            fields += inner_vectors(self.replay, assignment.choices.rank, further)
        importance, *others = dispatcher.dispatch_per_choice(fields)
        digits, entries = others[:num_digits], others[num_digits:]
        return TokenBatch(
            tokens,
            embeddings,
            importance,
            example_ids.from_digits(digits) if digits else None,
            mtf.stack(entries, vector_dim(0).name, axis=len(importance.shape)) if entries else None,
        )


def first_using_embeddings(levels: Sequence[Level]) -> Level | None:
    """Returns the first level whose gate asks for the embeddings of the tokens' words."""
    for level in levels:
        if level.router.gate.word_embeddings:
            return level
    return None


def need_examples(levels: Sequence[Level]) -> bool:
    """Returns whether a loss of one of the levels distinguishes examples."""
    return any(level.balance_loss_over == "example" for level in levels)


def _importance_further_in(importance: mtf.Tensor, assignment: Assignment) -> mtf.Tensor:
    """Returns float32 [..., S, K], the importance that a token has at its destinations.

    A first choice keeps all of it, others half. This depends on the rank and never on weights.
    """
    rank = assignment.choices.rank
    return mtf.slicewise(
        # [..., S, K], [..., S, 1] -> [..., S, K]
        lambda importance, rank: tf.where_v2(rank > 0, 0.5, 1.0) * importance[..., None],
        [importance, rank],
        output_shape=rank.shape,
        output_dtype=tf.float32,
        splittable_dims=rank.shape.dims,
        grad_function=0,
        name="importance_further_in",
    )
