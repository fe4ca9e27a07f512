"""Scores of experts for tokens, in float32, and sampling from them."""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf
from hmoe.mesh.randomness import RandomSource

# Added to a logit, it leaves no probability.
EXCLUDED = -1e9


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of each expert for each token, in float32.

    Attributes:
      logits: [..., S, X].
      probabilities: [..., S, X], the gate function of the logits. Weights are made from them.
      shares: [..., S, X], the probabilities divided by their sum over X. Losses balance them.
      tokens_dim: S, the tokens of a group.
      experts_dim: X, the experts, by the name that no layout rule splits.
      balance_bias: [*outer experts, X], added to the probabilities when experts are chosen, but
        not when they are weighed; None where the router has none.
      bias_update_rate: how far that bias moves in a step.
      kept_experts: float32 [outer experts ..., X], 1 for experts that may be chosen; None: all.
    """

    logits: mtf.Tensor
    probabilities: mtf.Tensor
    shares: mtf.Tensor
    tokens_dim: mtf.Dimension
    experts_dim: mtf.Dimension
    balance_bias: mtf.Tensor | None = None
    bias_update_rate: float = 0.0
    kept_experts: mtf.Tensor | None = None

    @property
    def preferences(self) -> mtf.Tensor:
        """[..., S, X]: what experts are chosen by, the higher the better."""
        preferences = self.probabilities
        if self.balance_bias is not None:
            preferences += self.balance_bias
        if self.kept_experts is not None:
            preferences += (1.0 - self.kept_experts) * EXCLUDED
        return preferences


def sample_expert(
    logits: mtf.Tensor, experts_dim: mtf.Dimension, temperature: float, random: RandomSource
) -> mtf.Tensor:
    """Draws an expert from softmax(logits / temperature) by Gumbel's trick.

    Args:
      logits: float32 [..., S, X].
      experts_dim: X.
      temperature: the higher, the more even the draw.
      random: the source of the draw.

    Returns:
      int32 [..., S].
    """
    uniform = random.uniform(logits.mesh, logits.shape)
    gumbel = -mtf.log(-mtf.log(uniform + 1e-9) + 1e-9)
    return mtf.argmax(mtf.stop_gradient(logits) / temperature + gumbel, experts_dim)
