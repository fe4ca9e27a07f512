"""Switch routing: one expert a token, weighted by its probability."""

from __future__ import annotations

from hmoe import checks
from hmoe.compat.stack import mtf
from hmoe.routing.gate import Gate, Scores, sample
from hmoe.routing.router import RoutingContext
from hmoe.routing.token_choice import TokenChoiceRouter, best_experts

SELECTIONS = ("argmax", "sample")


class SwitchRouter(TokenChoiceRouter):
    """Sends each token to one expert (Fedus et al. 2021, section 2.1).

    With `retries` it is No-Token-Left-Behind, with `priority` upstream's `switch_max`;
    see `hmoe.TokenChoiceRouter` for these. The jitter and the input dropout of that
    paper are settings of the gate.

    Attributes:
      selection_train: in training, "argmax" takes the expert of highest probability,
        "sample" draws one from softmax(logits / temperature).
      selection_eval: the same in evaluation and prediction, where "sample" draws the same
        numbers for every batch of a checkpoint.
      temperature: of the sampling; the higher, the more even.
    """

    def __init__(
        self,
        *,
        selection_train: str = "argmax",
        selection_eval: str = "argmax",
        temperature: float = 1.0,
        priority: bool = False,
        retries: int = 0,
        bias_update_rate: float | None = None,
        gate: Gate | None = None,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        where = "SwitchRouter"
        super().__init__(
            k=1, priority=priority, retries=retries, bias_update_rate=bias_update_rate, gate=gate
        )
        self.selection_train = checks.one_of(where, "selection_train", selection_train, SELECTIONS)
        self.selection_eval = checks.one_of(where, "selection_eval", selection_eval, SELECTIONS)
        self.temperature = checks.positive_number(where, "temperature", temperature)
        if bias_update_rate is not None and "sample" in (selection_train, selection_eval):
            raise ValueError(
                f"{where}: bias_update_rate is {bias_update_rate}, but experts are sampled from"
                " the logits, which the bias does not change; use selection 'argmax', or"
                " bias_update_rate = None"
            )

    def variable_name(self) -> str:
        """Upstream's name of the gating that does the same."""
        if self.priority:
            return "switch_max_gating"
        return "ntlb_gating" if self.retries else "switch_gating"

    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """See `TokenChoiceRouter.rank_experts`; those after a sampled one go by probability."""
        first = None
        if (self.selection_train if context.train else self.selection_eval) == "sample":
            first = sample(
                scores.logits, scores.experts_dim, self.temperature, context.random.named("sample")
            )
        return best_experts(scores.preferences, count, first)

    def __repr__(self) -> str:
        return f"SwitchRouter(retries={self.retries})"
