"""Uniform assignment: every expert gets as many tokens as any other."""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf
from hmoe.routing.gate import Gate, Scores
from hmoe.routing.router import RoutingContext
from hmoe.routing.token_choice import TokenChoiceRouter


class UniformRouter(TokenChoiceRouter):
    """Deals tokens out in turn, whatever their scores; for benchmarks.

    Choice j of the token at place t of its group goes to expert (t * k + j) mod X, with
    the weight that the scores give it (OLMo-core's uniform assignment).
    """

    def __init__(self, k: int = 1, *, weight_norm: float | None = None, gate: Gate | None = None):
        """Checks and keeps the settings; see `hmoe.TokenChoiceRouter` for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        super().__init__(k=k, weight_norm=weight_norm, gate=gate)

    def variable_name(self) -> str:
        """No layer of upstream does this."""
        return "uniform_gating"

    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """See `TokenChoiceRouter.rank_experts`."""
        mesh, preference = scores.logits.mesh, mtf.Dimension("preference", count)
        shape = mtf.Shape([*scores.logits.shape.dims[:-1], preference])
        place = mtf.range(mesh, scores.tokens_dim, tf.int32) * count
        expert = mtf.mod(
            mtf.broadcast(place, shape) + mtf.range(mesh, preference, tf.int32),
            scores.experts_dim.size,
        )
        return mtf.broadcast(expert, shape)
