"""What comes to a level, and what of it goes on to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from hmoe.compat.stack import mtf, tf
from hmoe.dispatch.dispatcher import Dispatcher
from hmoe.layer.level import Level
from hmoe.mesh import example_ids
from hmoe.mesh.local_ops import Local, unstacked
from hmoe.routing.assignment import Assignment


@dataclasses.dataclass(frozen=True)
class Arrivals:
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
    ) -> Arrivals:
        """The same after `reshape(tensor, trailing dimensions to keep)` of each."""
        depth = self.tokens.shape.dims[-1:]
        return Arrivals(
            reshape(self.tokens, depth),
            self.embeddings and reshape(self.embeddings, depth),
            reshape(self.importance, []),
            self.example and reshape(self.example, []),
        )

    def sent_on(
        self,
        dispatcher: Dispatcher,
        assignment: Assignment,
        further: Sequence[Level],
        num_examples: int,
    ) -> Arrivals:
        """What arrives one level further in, [X', *outer_experts, *waiting, G, C, ...].

        Args:
          dispatcher: of this level.
          assignment: of this level.
          further: the levels from the next one on, which say what they need.
          num_examples: of the whole batch.
        """
        tokens, embeddings = self.tokens, None
        if first_using_embeddings(further):
            # Beside the token, so that one all-to-all carries both.
            pair = mtf.stack(
                [tokens, self.embeddings], "token_and_word", axis=len(tokens.shape) - 1
            )
            pair = dispatcher.dispatch(pair)
            tokens, embeddings = unstacked(pair, pair.shape.dims[-2])
        else:
            tokens = dispatcher.dispatch(tokens)
        fields = [_importance_further_in(self.importance, assignment)]
        if need_examples(further):
            fields += example_ids.digits(self.example, num_examples)
            fields = [mtf.broadcast(each, assignment.kept.shape) for each in fields]
        importance, *digits = dispatcher.dispatch_per_choice(fields)
        return Arrivals(
            tokens, embeddings, importance, example_ids.from_digits(digits) if digits else None
        )


def first_using_embeddings(levels: Sequence[Level]) -> Level | None:
    """The first level whose gate asks for the embeddings of the tokens' words."""
    for level in levels:
        if level.router.gate.word_embeddings:
            return level
    return None


def need_examples(levels: Sequence[Level]) -> bool:
    """Whether a loss of one of the levels tells examples apart."""
    return any(level.balance_loss_over == "example" for level in levels)


def _importance_further_in(importance: mtf.Tensor, assignment: Assignment) -> mtf.Tensor:
    """float32 [..., S, K]: what is left of a token's importance at its destination.

    All of it at the first choice, half at others; from the rank, never from weights.
    """
    rank = assignment.choices.rank
    return mtf.slicewise(
        Local(_share),
        [importance, rank],
        output_shape=rank.shape,
        output_dtype=tf.float32,
        splittable_dims=rank.shape.dims,
        grad_function=0,
        name="importance_further_in",
    )


def _share(importance: tf.Tensor, rank: tf.Tensor) -> tf.Tensor:
    return tf.where_v2(rank > 0, 0.5, 1.0) * importance[..., None]
