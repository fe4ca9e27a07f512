"""The table of tokens and leaves."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis.token_leaves import token_leaves
from hmoe.analysis.traces import Category, Trace

from . import made_traces
from .made_traces import LAYER


def with_second_choices(trace: Trace, row: int, parent: int, went: int, path: int = 1) -> Trace:
    """Returns the trace with one inner row more, a copy of this row that went elsewhere."""
    rows = np.append(np.arange(len(trace)), row)
    numbers = {name: column[rows].copy() for name, column in trace.numbers.items()}
    for name, value in (("parent", parent), ("went", went), ("expert", went), ("path", path)):
        numbers[name][-1] = value
    categories = {
        name: Category(each.codes[rows], each.names) for name, each in trace.categories.items()
    }
    return dataclasses.replace(trace, numbers=numbers, categories=categories)


def test_a_table_made_by_hand() -> None:
    experts = np.array([[[[0, 2], [1, 0], [1, 1]]], [[[1, 2], [0, 0], [1, 2]]]])
    tokens = np.array([[7, 8, 9], [7, 7, 5]])
    trace = made_traces.of_experts(experts, (2, 3), ["el", "de"], tokens)
    trace = with_second_choices(trace, row=1, parent=1, went=2)  # example 0, position 0
    trace = with_second_choices(trace, row=7, parent=1, went=2)  # example 1, position 0, again
    trace.numbers["went"][3] = -1  # example 0, position 1
    found = token_leaves(trace, LAYER, "language")
    assert len(found) == 6
    np.testing.assert_array_equal(found.example, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.position, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(found.token, [7, 8, 9, 7, 7, 5])
    np.testing.assert_array_equal(found.label, [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(
        found.leaves.toarray(),
        [
            [0, 0, 1, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 1],
            [1, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 1],
        ],
    )
    np.testing.assert_array_equal(
        found.groups(0).toarray(), [[1, 1], [0, 0], [0, 1], [0, 1], [1, 0], [0, 1]]
    )
    np.testing.assert_array_equal(found.groups(1).toarray(), found.leaves.toarray())


def test_rows_in_another_order() -> None:
    trace = made_traces.trace(num_examples=4, length=5, leaves=(2, 3), seed=0)
    rows = np.random.default_rng(0).permutation(len(trace))
    numbers = {name: column[rows] for name, column in trace.numbers.items()}
    categories = {
        name: Category(each.codes[rows], each.names) for name, each in trace.categories.items()
    }
    other = dataclasses.replace(trace, numbers=numbers, categories=categories)
    one, two = (token_leaves(each, LAYER, "language") for each in (trace, other))
    for name in ("example", "position", "token", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.leaves.toarray(), two.leaves.toarray())


def test_no_tokens() -> None:
    trace = made_traces.of_experts(np.zeros((0, 1, 3, 2), int), (2, 3), ["de"])
    found = token_leaves(trace, LAYER)
    assert len(found) == 0
    assert found.leaves.shape == (0, 6)
