"""Balancing without a loss: a bias per expert that moves against its load once a step.

Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing"; DeepSeek-V3, section 2.1.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from hmoe.compat.stack import mtf, tf


@dataclasses.dataclass(frozen=True)
class BiasUpdate:
    """A bias to move once a step.

    Attributes:
      bias: float32 [*outer experts, X], a variable.
      load_name: name of the metric sum that has the demand for each expert.
      rate: how far the bias moves in a step.
    """

    bias: mtf.Tensor
    load_name: str
    rate: float

    def apply(self, load: mtf.Tensor) -> mtf.Operation:
        """Adds rate * sign(mean load - load) to the bias, with a mean of zero over siblings.

        Args:
          load: float32 [*outer experts, X], the demand in all microbatches and devices of a step;
            the mean is over X.

        Returns:
          The operation; run it once a step, after everything that reads the bias.
        """
        siblings = self.bias.shape.dims[-1]
        # Counts are whole numbers: compared as sums, a load of exactly the mean has no sign.
        total = mtf.reduce_sum(load, reduced_dim=siblings)
        step = mtf.sign(total - load * float(siblings.size))
        step -= mtf.reduce_mean(step, reduced_dim=siblings)
        return mtf.assign(self.bias.operation, self.bias + step * self.rate)


def apply_all(updates: Sequence[BiasUpdate], sums: Mapping[str, mtf.Tensor]) -> list[mtf.Operation]:
    """Returns the operations that move the biases of one layer.

    Args:
      updates: `hmoe.MoEResult.bias_updates`.
      sums: `hmoe.MoEResult.metrics`, added up over the microbatches of a step.
    """
    return [update.apply(mtf.cast(sums[update.load_name], tf.float32)) for update in updates]
