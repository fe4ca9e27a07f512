"""Switch routing: one expert a token, weighted by its probability."""

from __future__ import annotations

from hmoe import checks
from hmoe.compat.stack import mtf
from hmoe.config import choice, configuration, setting
from hmoe.routing.context import RoutingContext
from hmoe.routing.scores import Scores, sample_expert
from hmoe.routing.token_choice import TokenChoiceRouter, best_experts

SELECTIONS = ("argmax", "sample")


@configuration(
    without=(
        "k",
        "policy_train",
        "policy_eval",
        "threshold_train",
        "threshold_eval",
        "weight_norm",
    )
)
class SwitchRouter(TokenChoiceRouter):
    """Sends each token to one expert (Fedus et al. 2021, section 2.1).

    With `retries` it is No-Token-Left-Behind, with `priority` upstream's `switch_max`. The jitter
    and the input dropout of that paper are settings of the gate.
    """

    selection_train: str = choice(
        "argmax",
        SELECTIONS,
        doc="""In training, "argmax" takes the expert of highest probability, "sample" draws one
        from softmax(logits / temperature).""",
        source="Mesh TensorFlow `switch_policy_train`",
    )
    selection_eval: str = choice(
        "argmax",
        SELECTIONS,
        doc="""The same in evaluation and prediction, where "sample" draws the same numbers for
        every batch of a checkpoint.""",
        source="Mesh TensorFlow `switch_policy_eval`",
    )
    temperature: float = setting(
        1.0,
        doc="Temperature of the sampling; the higher, the more even.",
        unit="temperature",
        source="Mesh TensorFlow `switch_temperature`",
        check=checks.positive_number,
    )

    def check_together(self) -> None:
        """Raises ValueError for a balance bias that sampling would ignore."""
        super().check_together()
        selections = (self.selection_train, self.selection_eval)
        if self.bias_update_rate is not None and "sample" in selections:
            raise ValueError(
                f"{self.error_prefix()}: bias_update_rate is {self.bias_update_rate}, but experts"
                " are sampled from the logits, which the bias does not change; use selection"
                " 'argmax', or bias_update_rate = None"
            )

    def variable_name(self) -> str:
        """Returns upstream's name for the gating that does the same."""
        if self.priority:
            return "switch_max_gating"
        return "ntlb_gating" if self.retries else "switch_gating"

    def rank_experts(self, scores: Scores, count: int, context: RoutingContext) -> mtf.Tensor:
        """Ranks experts by probability, after the sampled one where one is sampled."""
        selection = self.selection_train if context.train else self.selection_eval
        first = None
        if selection == "sample":
            random = context.random.named("sample")
            first = sample_expert(scores.logits, scores.experts_dim, self.temperature, random)
        return best_experts(scores.preferences, count, first)
