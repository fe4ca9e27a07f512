"""What a router is: a gate that scores, and a rule that says who goes where."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

from hmoe.compat.stack import mtf
from hmoe.mesh.randomness import RandomSource
from hmoe.routing import losses
from hmoe.routing.assignment import Assignment
from hmoe.routing.gate import Gate, Scores


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

    A subclass writes `assign`; one where tokens choose experts derives from
    `hmoe.TokenChoiceRouter` and has less to write. Routing is float32 whatever the
    activations are.

    Attributes:
      gate: scores the experts; None: an `hmoe.Gate` with its defaults, a plain softmax.
      max_choices: experts that a token can reach at most at this level; None: all.
      sees_later_tokens: whether a token's experts depend on tokens after it so much
        that a decoder may not use the router.
      has_balance_loss: whether the loss of `hmoe.Level.balance_loss_over` and
        `balance_loss_choices` is meant for it.
    """

    max_choices: int | None = 1
    sees_later_tokens = False
    has_balance_loss = True

    def __init__(self, *, gate: Gate | None = None):
        """Keeps the gate; None: a plain softmax gate.

        Raises:
          ValueError: the gate is none.
        """
        if gate is not None and not isinstance(gate, Gate):
            raise ValueError(
                f"{type(self).__name__}: gate is {gate!r}; it must be an hmoe.Gate, or None for a"
                " softmax gate (in gin: @hmoe.Gate(), with the brackets)"
            )
        self.gate: Gate = Gate() if gate is None else gate

    @property
    def has_second_choice(self) -> bool:
        """Whether tokens can have a second choice; the second-place loss needs one."""
        return self.max_choices is not None and self.max_choices > 1

    def num_choices(self, num_experts: int) -> int:
        """Experts that a token can reach at most, of so many."""
        return num_experts if self.max_choices is None else min(self.max_choices, num_experts)

    def num_ranks(self, num_experts: int) -> int:
        """Different ranks that the choices of a token can have, with so many experts."""
        return self.num_choices(num_experts)

    def variable_name(self) -> str:
        """Name of the gating variable of a one-level layer; upstream's checkpoints fix it."""
        return "gating"

    def score(
        self,
        tokens: mtf.Tensor,
        embeddings: mtf.Tensor | None,
        experts_dim: mtf.Dimension,
        outer_expert_dims: list[mtf.Dimension],
        variable_dtype: mtf.VariableDType,
        name: str,
        context: RoutingContext,
    ) -> Scores:
        """Scores every expert for every token; the arguments are those of `hmoe.Gate`."""
        return self.gate(
            tokens,
            embeddings,
            experts_dim,
            outer_expert_dims,
            train=context.train,
            variable_dtype=variable_dtype,
            random=context.random,
            name=name,
        )

    @abc.abstractmethod
    def assign(
        self,
        scores: Scores,
        importance: mtf.Tensor,
        capacity: int,
        capacity_name: str,
        context: RoutingContext,
    ) -> Assignment:
        """Decides which tokens stand in which slots of which experts, and with what weight.

        Args:
          scores: of one level.
          importance: float32 [..., S]; 1 a full token, between 0 and 1 a partial one,
            0 padding, which must not be placed.
          capacity: slots of each expert for one group.
          capacity_name: name of the dimension of slots.
          context: whether this is training, and the source of random numbers.

        Returns:
          The assignment.
        """

    def balance_loss(
        self,
        scores: Scores,
        assignment: Assignment,
        importance: mtf.Tensor,
        pool: losses.Pool,
        choices: str,
    ) -> mtf.Tensor:
        """float32 []: what `hmoe.Level.balance_loss_coef` weighs; see `hmoe.routing.losses`."""
        return losses.balance_loss(scores, assignment.choices, importance, pool, choices)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def checked_router(where: str, router: Any) -> Router:
    """Returns `router` if it is one."""
    if not isinstance(router, Router):
        raise ValueError(
            f"{where}: router is {router!r}; it must be an object such as hmoe.TopKRouter(k=2)"
            " (in gin: @hmoe.TopKRouter(), with the brackets)"
        )
    return router
