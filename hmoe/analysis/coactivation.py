"""Which leaves process the same tokens of a layer."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis.token_leaves import token_leaves
from hmoe.analysis.traces import Trace


@dataclasses.dataclass(frozen=True)
class Coactivation:
    """How often two leaves process the same token.

    Attributes:
      counts: int64 [leaves, leaves], tokens that both process; the diagonal has those of one leaf.
    """

    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The share of the first leaf's tokens that the second processes too.

        N(i, j) / N(i), float64 [leaves, leaves]; 0 where the first has no tokens. Expert
        co-activation of Muennighoff et al. 2024, "OLMoE", arXiv 2409.02060.
        """
        return self.counts / np.maximum(np.diagonal(self.counts), 1)[:, None]


def coactivation(trace: Trace, layer: str) -> Coactivation:
    """Counts the tokens of each pair of leaves, over all pairs.

    Args:
      trace: the trace.
      layer: name of the layer.

    Raises:
      ValueError: the trace has no such layer.
    """
    leaves = token_leaves(trace, layer).leaves
    return Coactivation((leaves.T @ leaves).toarray())
