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

    def highest_probability_at_least(self, weight: float, num_experts: int) -> float | None:
        """Returns the bound of `hmoe.Router`, also where weights sum to one.

        The k chosen experts are the likeliest then, unless a balance bias has a say. Measured in
        the highest probability, the k - 1 others have (1 - weight) / weight together, and none of
        the X - k experts that are not chosen has more than their mean.
        """
        k = self.num_choices(num_experts)
        if k == 1 or self.weight_norm != 1.0:
            return super().highest_probability_at_least(weight, num_experts)
        if self.bias_update_rate is not None:
            return None
        return weight / (1.0 + (num_experts - k) / (k - 1) * (1.0 - weight))

    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """Ranks experts by probability, plus the balance bias if there is one."""
        return best_experts(scores.preferences, count)
