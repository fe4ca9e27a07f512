"""MaxVio of the experts over steps: of single steps, and of the demand of many steps together.

Experts may take turns: then single steps are uneven, and the demand of many steps is even. The
first costs room and time in every step; if the second is uneven too, experts lie idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hmoe.layer import metric_sums, metrics
from hmoe.t5.graphs.sums import SumKey
from hmoe.t5.sessions.run_metrics import (
    VIOLATION_OF_STEPS,
    VIOLATION_OF_WINDOW,
    WINDOW,
    sums_by_layer,
)

# The load of each place, float64 [sets of siblings, experts]; a place is a level or a layer, named
# as its metrics are.
Loads = dict[str, np.ndarray]


class LoadHistory:
    """Takes in the load of every step, and tells its MaxVio."""

    def __init__(self) -> None:
        # Of the steps since the last report.
        self._single: dict[str, float] = {}
        self._num_single = 0
        # Of the steps since the last multiple of WINDOW, as far as they are known.
        self._window: Loads = {}
        self._num_window = 0
        # Of the last whole window, until it is reported.
        self._whole: dict[str, float] = {}

    def add(self, step: int, sums: Mapping[SumKey, np.ndarray], num_steps: int = 1) -> None:
        """Adds the sums of a step, or the totals of several, which tell nothing of single ones.

        Args:
          step: the number of steps that are done, these among them.
          sums: the totals.
          num_steps: the number of steps.
        """
        loads = dict(_loads(sums))
        if not loads:
            return
        if num_steps == 1:
            self._num_single += 1
            for place, load in loads.items():
                self._single[place] = self._single.get(place, 0.0) + _violation(load)
        for place, load in loads.items():
            self._window[place] = self._window.get(place, 0.0) + load
        self._num_window += num_steps
        if step // WINDOW > (step - num_steps) // WINDOW:
            # Not where training went on from another step without its history, nor where a TPU's
            # loop steps over the multiple: MaxVio falls with the number of steps.
            if self._num_window == WINDOW:
                self._whole = {place: _violation(load) for place, load in self._window.items()}
            self._window, self._num_window = {}, 0

    def metrics(self) -> dict[str, float]:
        """Returns the metrics of a report, by name."""
        single = {
            f"{place}/{VIOLATION_OF_STEPS.name}": total / self._num_single
            for place, total in self._single.items()
        }
        whole = {
            f"{place}/{VIOLATION_OF_WINDOW.name}": value for place, value in self._whole.items()
        }
        return {**single, **whole}

    def begin_report(self) -> None:
        """Begins the steps of the next report."""
        self._single, self._num_single, self._whole = {}, 0, {}

    def fits(self, sums: Mapping[SumKey, np.ndarray]) -> bool:
        """Returns whether sums are of the levels and experts of those that are kept."""
        loads = dict(_loads(sums))
        kept = self._window.items()
        return all(place in loads and loads[place].shape == load.shape for place, load in kept)

    def state(self) -> dict[str, Any]:
        """Returns all that is kept, for JSON."""
        return {
            "single": self._single,
            "num_single": self._num_single,
            "window": {place: load.tolist() for place, load in self._window.items()},
            "num_window": self._num_window,
            "whole": self._whole,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> LoadHistory:
        """Returns what was kept.

        Raises:
          ValueError, TypeError or KeyError: the state is damaged.
        """
        history = cls()
        history._single = {str(p): float(value) for p, value in dict(state["single"]).items()}
        history._num_single = int(state["num_single"])
        window = {str(p): np.array(load, np.float64) for p, load in dict(state["window"]).items()}
        if any(load.ndim != 2 for load in window.values()):
            raise ValueError("a load has a row for each set of siblings")
        history._window = window
        history._num_window = int(state["num_window"])
        history._whole = {str(p): float(value) for p, value in dict(state["whole"]).items()}
        return history


def _loads(sums: Mapping[SumKey, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the load of each level, and of each layer's experts whatever their parents are."""
    for layer, of_layer in sums_by_layer(sums).items():
        if metric_sums.LAYER not in of_layer:
            continue
        load = np.zeros([1, 0])
        for level in metrics.levels_of(of_layer):
            load = metrics.load_of(of_layer, level)
            yield f"{layer}/{level}", load
        yield layer, load.reshape([1, -1])


def _violation(load: np.ndarray) -> float:
    return metrics.imbalance_of(load) - 1.0
