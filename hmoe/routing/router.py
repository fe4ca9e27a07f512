"""The interface of routers: a gate that scores, and a rule that assigns tokens to experts."""

from __future__ import annotations

import abc

from hmoe import checks
from hmoe.compat.stack import mtf
from hmoe.config import Configuration, configuration, setting
from hmoe.routing import losses
from hmoe.routing.assignment import Assignment
from hmoe.routing.context import RoutingContext
from hmoe.routing.gate import Gate
from hmoe.routing.scores import Scores

_check_gate = checks.part("hmoe.Gate()", lambda value: isinstance(value, Gate), or_none=True)


def _gate_or_default(where: str, field: str, value: object) -> Gate:
    return _check_gate(where, field, value) or Gate()


@configuration()
class Router(Configuration, abc.ABC):
    """Scores experts for tokens and assigns tokens to experts.

    A subclass writes `assign`. One in which tokens choose experts derives from
    `hmoe.TokenChoiceRouter` and has less to write. Routing is float32 whatever the activations are.
    """

    gate: Gate = setting(
        None,
        doc="Scores the experts. None: an `hmoe.Gate` with its defaults, a plain softmax.",
        unit="object",
        source="Shazeer 2017",
        check=_gate_or_default,
    )

    @property
    def max_choices(self) -> int | None:
        """Experts that a token can reach at most at this level; None: all of them."""
        return 1

    @property
    def sees_later_tokens(self) -> bool:
        """Whether a token's experts depend on later tokens; a decoder refuses such a router."""
        return False

    @property
    def follows_scores(self) -> bool:
        """Whether experts without probability get no weight, so that some can be left out."""
        return True

    @property
    def reason_not_to_replay(self) -> str | None:
        """Says why the router cannot take recorded choices in place of its own; None: it can."""
        return (
            f"{type(self).__name__} does not let tokens choose experts one by one; use a router"
            " that does, such as hmoe.TopKRouter"
        )

    def highest_probability_at_least(self, weight: float, num_experts: int) -> float | None:
        """Returns the least that a token's highest probability can be, by its highest weight.

        It tells how undecided a router can be at most, where the entropy of its gate is not
        measured. A router whose weights tell nothing of probabilities has no bound.

        Args:
          weight: a weight that the token's highest weight is not below.
          num_experts: X.

        Returns:
          The bound, convex in the weight and rising with it, so that it holds for means over
          tokens too; None if there is none.
        """
        del weight, num_experts
        return None

    @property
    def has_balance_loss(self) -> bool:
        """Whether `hmoe.Level.balance_loss_over` and `balance_loss_choices` apply to the router."""
        return True

    @property
    def has_second_choice(self) -> bool:
        """Whether tokens can have a second choice, which the second-place loss needs."""
        return self.max_choices is not None and self.max_choices > 1

    def num_choices(self, num_experts: int) -> int:
        """Returns how many experts a token can reach at most, if there are `num_experts`."""
        return num_experts if self.max_choices is None else min(self.max_choices, num_experts)

    def num_ranks(self, num_experts: int) -> int:
        """Returns how many different ranks a token's choices can have."""
        return self.num_choices(num_experts)

    def variable_name(self) -> str:
        """Returns the name of a one-level layer's gating variable, which checkpoints fix."""
        return "gating"

    def score(
        self, tokens: mtf.Tensor, embeddings: mtf.Tensor | None, context: RoutingContext
    ) -> Scores:
        """Scores every expert for every token; see `hmoe.Gate` for the arguments."""
        return self.gate(tokens, embeddings, context)

    @abc.abstractmethod
    def assign(self, scores: Scores, importance: mtf.Tensor, context: RoutingContext) -> Assignment:
        """Assigns tokens to slots of experts, with a weight for each.

        Args:
          scores: the scores of one level.
          importance: float32 [..., S]; 1 for a full token, between 0 and 1 for a partial one, 0 for
            padding, which must not be placed.
          context: has the capacity, and the source of random numbers.

        Returns:
          The assignment.
        """

    def balance_loss(
        self,
        scores: Scores,
        assignment: Assignment,
        importance: mtf.Tensor,
        pool: losses.Pool,
        counted: str,
    ) -> mtf.Tensor:
        """Returns float32 [], the loss that `hmoe.Level.balance_loss_coef` multiplies.

        See `hmoe.routing.losses.balance_loss` for the arguments.
        """
        return losses.balance_loss(scores, assignment.choices, importance, pool, counted)
