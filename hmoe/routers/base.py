"""What every router does: score the experts, then leave the choice to the subclass."""
from __future__ import annotations

import abc
import dataclasses

from hmoe.assignment import Assignment, Choices, place
from hmoe.compat.stack import mtf, tf
from hmoe.randomness import RandomSource


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a router thinks of each expert, in float32.

    Attributes:
      logits: [..., S, X].
      probabilities: [..., S, X], softmax of the logits over X.
      tokens_dim: S, the tokens of a group.
      experts_dim: X, the experts (by the name that no layout rule splits).
    """

    logits: mtf.Tensor
    probabilities: mtf.Tensor
    tokens_dim: mtf.Dimension
    experts_dim: mtf.Dimension


@dataclasses.dataclass(frozen=True)
class RoutingContext:
    """What a router may need to know beside the tokens.

    Attributes:
      train: whether the layer is training.
      has_partial_tokens: whether importance can lie between 0 and 1.
      random: source of random numbers that do not depend on the layout.
      level: name of the level, for messages.
    """

    train: bool
    has_partial_tokens: bool
    random: RandomSource
    level: str


class Router(abc.ABC):
    """Scores experts for tokens and says who goes where.

    A subclass writes `choose`. Routing is float32 whatever the activations are.
    """

    # Experts that a token asks for at most; the number of active parameters follows.
    max_choices = 1

    @property
    def has_second_choice(self) -> bool:
        """Whether tokens can have a second choice; the second-place loss needs one."""
        return self.max_choices > 1

    def variable_name(self) -> str:
        """Name of the gating variable of a one-level layer; upstream's checkpoints fix it."""
        return "gating"

    def score(
        self,
        tokens: mtf.Tensor,
        experts_dim: mtf.Dimension,
        outer_expert_dims: list[mtf.Dimension],
        variable_dtype: mtf.VariableDType,
        name: str,
    ) -> Scores:
        """Scores every expert for every token.

        Args:
          tokens: [..., S, M].
          experts_dim: X.
          outer_expert_dims: experts of the levels above; each has a gating matrix
            of its own. They stand in `tokens` too.
          variable_dtype: types of variables; the master type is used, the rest is
            float32.
          name: scope of the variable.

        Returns:
          The scores; creates the variable `<name>/kernel` [*outer, M, X].
        """
        float32 = mtf.VariableDType(variable_dtype.master_dtype, tf.float32, tf.float32)
        logits = mtf.layers.dense(
            mtf.cast(tokens, tf.float32), [experts_dim], reduced_dims=tokens.shape.dims[-1:],
            expert_dims=outer_expert_dims, use_bias=False, variable_dtype=float32, name=name)
        return Scores(logits, mtf.softmax(logits, experts_dim), tokens.shape.dims[-2], experts_dim)

    @abc.abstractmethod
    def choose(self, scores: Scores, importance: mtf.Tensor, context: RoutingContext) -> Choices:
        """Decides which experts each token asks for, and with what weight.

        Args:
          scores: of one level.
          importance: float32 [..., S]; 1 a full token, between 0 and 1 a partial one
            (it gets one expert), 0 padding (it gets none).
          context: whether this is training, and the source of random numbers.

        Returns:
          The choices, best first.
        """

    def assign(
        self,
        scores: Scores,
        importance: mtf.Tensor,
        capacity: int,
        capacity_name: str,
        context: RoutingContext,
    ) -> Assignment:
        """Chooses, then fills the buffers in order of choice and token."""
        return place(self.choose(scores, importance, context), capacity, capacity_name)
