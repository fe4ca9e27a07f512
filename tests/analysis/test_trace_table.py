"""The table of a traced line, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis import trace_table
from hmoe.analysis.traces import Category, LayerInfo, LevelInfo, Trace
from tests.analysis import made_traces

LAYER = made_traces.LAYER
# example, position, token, level, path, parent, rank, expert, weight, used, went
ROWS = [
    (0, 0, 9, 0, 0, 0, 0, 2, 0.75, True, 2),  # to the third group
    (0, 0, 9, 0, 0, 0, 1, 0, 0.25, True, -1),  # no room in the first
    (0, 0, 9, 1, 0, 2, 0, 1, 0.80, True, 1),  # to its second expert
    (0, 0, 9, 1, 0, 2, 1, 0, 0.20, False, -1),  # which the policy does not use
    (0, 1, 5, 0, 0, 0, 0, -1, 0.0, False, -1),  # chosen by none
    (0, 2, 7, 0, 0, 0, 0, 1, 0.60, True, 1),  # two copies, of which each comes to a place
    (0, 2, 7, 0, 0, 0, 1, 0, 0.40, True, 0),
    (0, 2, 7, 1, 0, 1, 0, 0, 0.50, True, 0),
    (0, 2, 7, 1, 0, 1, 1, 1, 0.50, True, 1),
    (0, 2, 7, 1, 1, 0, 0, 1, 1.00, True, 1),
    (1, 0, 9, 0, 0, 0, 0, 1, 1.00, True, -1),  # of another line
]
NAMES = [
    "example",
    "position",
    "token",
    "level",
    "path",
    "parent",
    "rank",
    "expert",
    "weight",
    "used",
    "went",
]


def trace() -> Trace:
    levels = (LevelInfo("outer", 3, 2, "TopKRouter"), LevelInfo("inner", 2, 2, "TopKRouter"))
    found = made_traces.of_experts(np.zeros((2, 1, 3, 2), int), (3, 2), ["de", "el"])
    numbers = {
        name: np.array(column).astype(found.numbers[name].dtype)
        for name, column in zip(NAMES, zip(*ROWS))
    }
    numbers["margin"] = np.ones(len(ROWS), np.float32)
    manifest = made_traces.manifest(2, (3, 2), [LAYER])
    zeros = np.zeros(len(ROWS), np.int32)
    pieces = Category(np.array([0] * 4 + [1] + [2] * 5 + [0], np.int32), ("a", "b\n", "c"))
    categories = {**found.categories, "layer": Category(zeros, (LAYER,)), "piece": pieces}
    layers = (LayerInfo(LAYER, "inputs", levels),)
    return Trace(dataclasses.replace(manifest, layers=layers), numbers, categories)


def test_ways_and_weights_of_each_token() -> None:
    lines = [line.split() for line in trace_table.report(trace(), 0).splitlines()]
    assert lines[0] == ["Tokens", "of", "inputs"]
    assert ["token", LAYER] in lines
    cells = {line[0]: " ".join(line[1:]) for line in lines[4:7]}
    assert cells == {
        "a": "0x, 2.1 0.60",
        "b\\n": "-",
        "c": "1.0 0.30, 1.1 0.30, 0.1 0.40",
    }
