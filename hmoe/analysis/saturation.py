"""How many of a layer's choices are those of another checkpoint."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from hmoe.analysis.token_leaves import TokenLeaves, token_leaves
from hmoe.analysis.traces import Trace


@dataclasses.dataclass(frozen=True)
class Saturation:
    """The share of the same experts for the same tokens in two checkpoints.

    Attributes:
      shares: float64 [levels], outermost first: the mean over tokens of the share of a token's
        experts at the later checkpoint that it has at the earlier one too. An expert of an inner
        level is the same only if its groups are, so that the last level is that of leaves.
      even: float64 [levels], the same if the earlier checkpoint's experts were drawn at random for
        each token, as many as it has.
      tokens: the tokens that an expert processes at the later checkpoint.
    """

    shares: np.ndarray
    even: np.ndarray
    tokens: int


def saturation(earlier: Trace, later: Trace, layer: str) -> Saturation:
    """Compares a layer at two checkpoints.

    Router saturation of Muennighoff et al. 2024, "OLMoE", arXiv 2409.02060:
    1 / N sum_tokens |E(earlier) & E(later)| / |E(later)|. Tokens that no expert processes at the
    later checkpoint are left out. Experts are those that process a token, after capacity.

    Args:
      earlier: the trace of a checkpoint.
      later: the trace of a later one, usually the last, of the same examples.
      layer: name of the layer.

    Raises:
      ValueError: a trace has no such layer, or the layers have other experts or other tokens.
    """
    first, last = (token_leaves(trace, layer) for trace in (earlier, later))
    _check(layer, first, last)
    processed = np.flatnonzero(_row_sums(last.leaves))
    shares, even = [], []
    for level in range(len(first.choices.sizes)):
        ours, theirs = (each.groups(level)[processed] for each in (first, last))
        chosen = _row_sums(theirs)
        shares.append(_mean(_row_sums(ours.multiply(theirs)) / chosen))
        even.append(_mean(_row_sums(ours) / ours.shape[1]))
    return Saturation(np.array(shares), np.array(even), len(processed))


def _check(layer: str, first: TokenLeaves, last: TokenLeaves) -> None:
    sizes = [" x ".join(map(str, each.choices.sizes)) for each in (first, last)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"layer {layer}: the earlier trace has {sizes[0]} experts and the later {sizes[1]};"
            " compare checkpoints of one model"
        )
    same = all(
        np.array_equal(getattr(first, name), getattr(last, name))
        for name in ("example", "position", "token")
    )
    if not same:
        raise ValueError(
            f"layer {layer}: the traces are not of the same tokens ({len(first)} and {len(last)});"
            " trace the same data with both checkpoints"
        )


def _row_sums(table: sparse.spmatrix) -> np.ndarray:
    return np.asarray(table.sum(axis=1)).ravel()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
