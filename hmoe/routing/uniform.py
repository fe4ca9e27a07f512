"""Uniform assignment: every expert gets as many tokens as any other."""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf
from hmoe.config import configuration
from hmoe.routing.context import RoutingContext
from hmoe.routing.scores import Scores
from hmoe.routing.token_choice import TokenChoiceRouter


@configuration(
    without=(
        "policy_train",
        "policy_eval",
        "threshold_train",
        "threshold_eval",
        "priority",
        "retries",
        "bias_update_rate",
    )
)
class UniformRouter(TokenChoiceRouter):
    """Deals tokens out in turn, whatever their scores; for benchmarks.

    Choice j of the token at position t of its group goes to expert (t * k + j) mod X, with the
    weight that the scores give it (OLMo-core's uniform assignment).
    """

    @property
    def follows_scores(self) -> bool:
        """Tokens are dealt out to all experts, whatever their scores."""
        return False

    def variable_name(self) -> str:
        """Returns a name of its own: no layer of upstream does this."""
        return "uniform_gating"

    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """Names the next `count` experts in turn."""
        mesh, preference = scores.logits.mesh, mtf.Dimension("preference", count)
        shape = mtf.Shape([*scores.logits.shape.dims[:-1], preference])
        position = mtf.range(mesh, scores.tokens_dim, tf.int32) * count
        expert = mtf.mod(
            mtf.broadcast(position, shape) + mtf.range(mesh, preference, tf.int32),
            scores.experts_dim.size,
        )
        return mtf.broadcast(expert, shape)
