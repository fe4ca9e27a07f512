"""What TensorBoard shows of the experts of all layers: histograms of load, and percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hmoe.compat.stack import tf
from hmoe.layer.level_states import LevelState

# Number of buckets of a histogram above the one of experts without demand.
NUM_BUCKETS = 30

# Percentiles over layers, by name.
PERCENTILES = {"min": 0, "p10": 10, "p50": 50, "p90": 90, "max": 100}


def summary(states: Sequence[LevelState]) -> tf.Summary:
    """Returns histograms of load by layer and level, and percentiles over the layers.

    `<layer>/<level>/relative_load` is the demand for each expert over the mean demand.
    `percentiles/<level>/<metric>/p90` and the like are over the layers that have a level of that
    name; there are none where only one has.
    """
    values = [
        tf.Summary.Value(
            tag=f"{state.layer}/{state.level}/relative_load",
            histo=histogram(state.relative_load.ravel()),
        )
        for state in states
    ]
    for name, value in percentiles(states).items():
        values.append(tf.Summary.Value(tag=name, simple_value=value))
    return tf.Summary(value=values)


def histogram(values: np.ndarray) -> tf.HistogramProto:
    """Returns a histogram of numbers of at least 0: the first bucket holds zeros alone.

    Args:
      values: float64 [numbers], at least one.
    """
    # Right edges, each part of its bucket; the last one also where all numbers are 0.
    top = max(float(values.max()), 1.0)
    limits = np.linspace(0.0, top, NUM_BUCKETS + 1)
    limits[-1] = top
    counts = np.bincount(np.searchsorted(limits, values), minlength=limits.size)
    return tf.HistogramProto(
        min=float(values.min()),
        max=float(values.max()),
        num=float(values.size),
        sum=float(values.sum()),
        sum_squares=float(np.square(values).sum()),
        bucket_limit=limits.tolist(),
        bucket=counts.tolist(),
    )


def percentiles(states: Iterable[LevelState]) -> Mapping[str, float]:
    """Returns percentiles over the layers of a level's imbalance and share dropped, by tag."""
    by_level: dict[str, list[LevelState]] = {}
    for state in states:
        by_level.setdefault(state.level, []).append(state)
    found = {}
    for level, of_level in by_level.items():
        if len(of_level) == 1:
            continue
        numbers = {
            "load_imbalance": [state.imbalance for state in of_level],
            "fraction_tokens_dropped": [state.dropped for state in of_level],
        }
        for metric, values in numbers.items():
            for name, percent in PERCENTILES.items():
                found[f"percentiles/{level}/{metric}/{name}"] = float(
                    np.percentile(values, percent)
                )
    return found
