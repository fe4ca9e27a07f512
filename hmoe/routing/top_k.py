"""Top-k routing: each token chooses the k experts of highest probability."""

from __future__ import annotations

from hmoe.compat.stack import mtf
from hmoe.config import configuration
from hmoe.routing.context import RoutingContext
from hmoe.routing.scores import Scores
from hmoe.routing.token_choice import TokenChoiceRouter, best_experts


@configuration(defaults={"k": 2, "policy_train": "random", "weight_norm": 1.0})
class TopKRouter(TokenChoiceRouter):
    """Sends each token to the k experts of highest probability.

    After Shazeer et al. 2017, section 2.1, and GShard, algorithm 1.
    """

    def variable_name(self) -> str:
        """Returns upstream's name for the gating with as many choices."""
        return "top_2_gating" if self.k == 2 else "top_n_gating"

    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """Ranks experts by probability, plus the balance bias if there is one."""
        return best_experts(scores.preferences, count)
