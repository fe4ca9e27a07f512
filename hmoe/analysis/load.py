"""How evenly a layer's experts are loaded, by siblings and by leaf, and what is dropped."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis.routed import layer_of
from hmoe.analysis.traces import LevelInfo, Trace


@dataclasses.dataclass(frozen=True)
class Balance:
    """How choices are spread over the experts of each group.

    All measures are over the last axis. Where a group has no choices they are those of an even
    load, and no expert of it counts as dead.

    Attributes:
      counts: int64 [groups, experts], how many choices went to each expert.
    """

    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The share of each expert in the choices of its group, float64 [groups, experts]."""
        totals = self.counts.sum(axis=-1, keepdims=True)
        even = np.full(self.counts.shape, 1 / self.counts.shape[-1])
        return np.divide(self.counts, totals, out=even, where=totals > 0)

    @property
    def max_violation(self) -> np.ndarray:
        """The largest load over the mean load, minus 1; float64 [groups].

        From 0, an even load, to experts - 1, all on one. MaxVio of Wang et al. 2024, "Auxiliary-
        Loss-Free Load Balancing Strategy for Mixture-of-Experts", arXiv 2408.15664.
        """
        return self.shares.max(axis=-1) * self.counts.shape[-1] - 1

    @property
    def gini(self) -> np.ndarray:
        """The Gini coefficient of the load, float64 [groups].

        sum_ij |p_i - p_j| / (2 n) for the shares p of n experts: from 0, an even load, to
        1 - 1 / n, all on one.
        """
        ordered = np.sort(self.shares, axis=-1)
        number = ordered.shape[-1]
        ranks = 2 * np.arange(1, number + 1) - number - 1
        return (ranks * ordered).sum(axis=-1) / number

    @property
    def effective_experts(self) -> np.ndarray:
        """How many evenly loaded experts would have the same entropy, float64 [groups].

        exp(H), H = -sum_i p_i log p_i: from 1 to the number of experts. The Hill number of order
        1: Hill 1973, "Diversity and Evenness", Ecology 54(2).
        """
        shares = self.shares
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        return np.exp(-(shares * logs).sum(axis=-1))

    @property
    def dead(self) -> np.ndarray:
        """Which experts have no choice, although their group has; bool [groups, experts]."""
        return (self.counts == 0) & (self.counts.sum(axis=-1, keepdims=True) > 0)


@dataclasses.dataclass(frozen=True)
class LevelLoad:
    """The load of a level.

    Attributes:
      level: the level.
      chosen: what the router asks for, before capacity: the balance of the experts of each parent.
      processed: the same of what experts process: after capacity, and where retried choices went.
      tokens: tokens, and copies of tokens at an inner level, that came here.
      unchosen: those of them that no expert chose.
    """

    level: LevelInfo
    chosen: Balance
    processed: Balance
    tokens: int
    unchosen: int

    @property
    def dropped(self) -> float:
        """The share of choices without room; 0 where there are no choices."""
        chosen = int(self.chosen.counts.sum())
        return 1 - int(self.processed.counts.sum()) / chosen if chosen else 0.0


@dataclasses.dataclass(frozen=True)
class LayerLoad:
    """The load of a layer.

    Attributes:
      levels: the load of each level among siblings, outermost first.
    """

    levels: tuple[LevelLoad, ...]

    @property
    def chosen_leaves(self) -> Balance:
        """The choices of leaves before the last level's capacity, over all leaves as one group."""
        return Balance(self.levels[-1].chosen.counts.reshape(1, -1))

    @property
    def processed_leaves(self) -> Balance:
        """The choices that leaves process, over all leaves as one group."""
        return Balance(self.levels[-1].processed.counts.reshape(1, -1))


def load(trace: Trace, layer: str) -> LayerLoad:
    """Counts the load of a layer's experts; every choice that is used counts 1.

    Args:
      trace: the trace.
      layer: name of the layer.

    Raises:
      ValueError: the trace has no such layer.
    """
    info = layer_of(trace, layer)
    of_layer = trace.rows_of(layer)
    loads, parents = [], 1
    for number, level in enumerate(info.levels):
        rows = of_layer & (trace.numbers["level"] == number)
        loads.append(_level_load(trace, rows, level, parents))
        parents *= level.num_experts
    return LayerLoad(tuple(loads))


def _level_load(trace: Trace, rows: np.ndarray, level: LevelInfo, parents: int) -> LevelLoad:
    numbers = trace.numbers
    used = rows & numbers["used"]

    def balance(column: str) -> Balance:
        found = used & (numbers[column] >= 0)
        parent, expert = (numbers[name][found].astype(np.int64) for name in ("parent", column))
        counts = np.bincount(
            parent * level.num_experts + expert, minlength=parents * level.num_experts
        )
        return Balance(counts.reshape(parents, level.num_experts))

    copies = np.stack([numbers[name][rows] for name in ("example", "position", "path")])
    return LevelLoad(
        level=level,
        chosen=balance("expert"),
        processed=balance("went"),
        tokens=np.unique(copies, axis=1).shape[1],
        unchosen=int((rows & (numbers["expert"] < 0)).sum()),
    )
