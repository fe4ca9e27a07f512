"""The path table against a loop over tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hmoe.analysis.paths import paths
from hmoe.analysis.routed import routed
from hmoe.analysis.traces import Trace

from . import made_traces


def made(**changes: str) -> Trace:
    random = np.random.default_rng(0)
    experts = np.stack([random.integers(0, size, (4, 3, 5)) for size in (2, 3)], axis=-1)
    trace = made_traces.of_experts(experts, (2, 3), ["de"] * 4, layers=("a", "b", "c"))
    trace.numbers["went"][random.integers(0, len(trace), 30)] = -1
    layers = list(trace.manifest.layers)
    layers[2] = dataclasses.replace(layers[2], **changes)
    manifest = dataclasses.replace(trace.manifest, layers=tuple(layers))
    return dataclasses.replace(trace, manifest=manifest)


@pytest.mark.parametrize(("layer", "other"), [("a", "b"), ("b", "c"), ("c", "a")])
def test_paths_are_those_of_a_loop(layer: str, other: str) -> None:
    trace = made()
    first, second = routed(trace, layer), routed(trace, other)
    expected = np.zeros((6, 6), int)
    for one in range(len(first)):
        for two in range(len(second)):
            if (first.example[one], first.position[one]) == (
                second.example[two],
                second.position[two],
            ):
                expected[first.leaf[one], second.leaf[two]] += 1
    found = paths(trace, layer, other)
    assert 0 < expected.sum() < 20
    np.testing.assert_array_equal(found.counts, expected)
    totals = expected.sum(axis=1)
    np.testing.assert_allclose(found.shares.sum(axis=1), (totals > 0).astype(float))
    np.testing.assert_allclose(found.shares * totals[:, None], expected)


def test_layers_of_two_sequences() -> None:
    with pytest.raises(ValueError) as caught:
        paths(made(sequence="targets"), "b", "c")
    assert str(caught.value) == (
        "layer b reads inputs and layer c reads targets, so that no token has a path between them;"
        " name layers of one sequence"
    )
