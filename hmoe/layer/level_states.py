"""How the levels of all layers stand, from the sums of any number of calls: for watching a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from hmoe.layer import entropy_bound, metric_sums, metrics
from hmoe.routing.router import Router


@dataclasses.dataclass(frozen=True)
class LevelState:
    """How a level of a layer stands.

    Attributes:
      layer: name of the layer, such as "encoder/block_000/layer_001".
      level: name of the level.
      is_innermost: whether its experts are those that compute, and not groups of others.
      load: float64 [*outer experts, X], the demand for each expert before policy and capacity.
      dropped: share of the layer's tokens that are left behind because of this level.
      entropy: mean entropy of the gate in nats; None where metrics do not include it.
      entropy_at_most: where they do not, a bound on it over the full tokens that have a slot; None
        if there is none.
    """

    layer: str
    level: str
    is_innermost: bool
    load: np.ndarray
    dropped: float
    entropy: float | None
    entropy_at_most: float | None = None

    @property
    def where(self) -> str:
        """The place for a reader: layer and level."""
        return f"{self.layer}, level {self.level}"

    @property
    def imbalance(self) -> float:
        """The metric `load_imbalance` of the level."""
        return metrics.imbalance_of(self.load.reshape([-1, self.load.shape[-1]]))

    @property
    def relative_load(self) -> np.ndarray:
        """[*outer experts, X], the demand for each expert over the mean demand: 1 where even."""
        total = self.load.sum()
        return self.load * (self.load.size / total) if total else np.zeros_like(self.load)


# The router of each level, by layer and level.
Routers = Mapping[str, Mapping[str, Router]]


def level_states(
    sums: Mapping[str, Mapping[str, np.ndarray]], routers: Routers | None = None
) -> list[LevelState]:
    """Returns the levels of all layers that have metrics, layer by layer, outermost first.

    Args:
      sums: for each layer, the sums of its calls by name; see `hmoe.layer.metrics.summarize`.
      routers: the routers that are known, for bounds on entropies that are not measured.
    """
    return [
        state
        for layer, of_layer in sums.items()
        if metric_sums.LAYER in of_layer
        for state in _of_layer(layer, of_layer, (routers or {}).get(layer, {}))
    ]


def _of_layer(
    layer: str, sums: Mapping[str, np.ndarray], routers: Mapping[str, Router]
) -> list[LevelState]:
    levels = metrics.levels_of(sums)
    totals = metric_sums.decode_layer(sums[metric_sums.LAYER], levels)
    found = []
    for level in levels:
        tokens = metric_sums.decode_tokens(sums[metric_sums.tokens_name(level)])
        load = np.asarray(sums[metric_sums.load_name(level)], np.float64)
        is_measured = "entropy" in tokens.sums
        has_entropy = is_measured and tokens.sums["full"]
        bound = entropy_bound.entropy_at_most(tokens.sums, routers.get(level), load.shape[-1])
        found.append(
            LevelState(
                layer=layer,
                level=level,
                is_innermost=level == levels[-1],
                load=load,
                dropped=totals[f"lost/{level}"] / totals["tokens"] if totals["tokens"] else 0.0,
                entropy=tokens.sums["entropy"] / tokens.sums["full"] if has_entropy else None,
                entropy_at_most=None if is_measured else bound,
            )
        )
    return found
