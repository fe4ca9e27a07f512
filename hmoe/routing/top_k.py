"""Top-k routing: every token asks for the k experts that score highest."""

from __future__ import annotations

from hmoe.compat.stack import mtf
from hmoe.routing.gate import Gate, Scores
from hmoe.routing.router import RoutingContext
from hmoe.routing.token_choice import TokenChoiceRouter, best_experts


class TopKRouter(TokenChoiceRouter):
    """Sends each token to the k experts of highest probability.

    See `hmoe.TokenChoiceRouter` for the settings (Shazeer et al. 2017, section 2.1;
    GShard, algorithm 1).
    """

    def __init__(
        self,
        k: int = 2,
        *,
        policy_train: str = "random",
        policy_eval: str = "all",
        threshold_train: float = 0.2,
        threshold_eval: float = 0.2,
        weight_norm: float | None = 1.0,
        priority: bool = False,
        retries: int = 0,
        bias_update_rate: float | None = None,
        gate: Gate | None = None,
    ):
        """Checks and keeps the settings; see `hmoe.TokenChoiceRouter` for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        super().__init__(
            k=k,
            policy_train=policy_train,
            policy_eval=policy_eval,
            threshold_train=threshold_train,
            threshold_eval=threshold_eval,
            weight_norm=weight_norm,
            priority=priority,
            retries=retries,
            bias_update_rate=bias_update_rate,
            gate=gate,
        )

    def variable_name(self) -> str:
        """Upstream's name of the gating with as many choices."""
        return "top_2_gating" if self.k == 2 else "top_n_gating"

    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """See `TokenChoiceRouter.rank_experts`."""
        return best_experts(scores.preferences, count)
