"""Where the tokens of one layer's leaves go in another layer."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis.token_leaves import token_leaves
from hmoe.analysis.traces import Trace


@dataclasses.dataclass(frozen=True)
class Paths:
    """How many tokens go from each leaf of a layer to each leaf of another.

    Attributes:
      counts: int64 [leaves, leaves of the other layer], tokens that both leaves process.
    """

    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The share of each leaf's paths, float64 as `counts`; rows sum to 1, or 0 without paths.

        A token that several leaves of the other layer process has a path to each.
        """
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


def paths(trace: Trace, layer: str, other: str) -> Paths:
    """Counts the tokens of each pair of leaves of two layers.

    Args:
      trace: the trace.
      layer: name of a layer.
      other: name of another, usually the next, which reads the same sequence.

    Raises:
      ValueError: the trace has no such layer, or the two read different sequences.
    """
    first, second = (token_leaves(trace, name) for name in (layer, other))
    read = [each.choices.layer.sequence for each in (first, second)]
    if read[0] != read[1]:
        raise ValueError(
            f"layer {layer} reads {read[0]} and layer {other} reads {read[1]}, so that no token has"
            " a path between them; name layers of one sequence"
        )
    one, two = (each.example * (1 << 32) + each.position for each in (first, second))
    _, ours, theirs = np.intersect1d(one, two, assume_unique=True, return_indices=True)
    return Paths((first.leaves[ours].T @ second.leaves[theirs]).toarray())
