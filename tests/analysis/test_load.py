"""The load of experts on tables made by hand, and its measures against their definitions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.analysis import load
from hmoe.analysis.load import Balance

from . import made_traces
from .made_traces import LAYER

# [examples 2, layers 1, positions 3, levels 2]
EXPERTS = np.array([[[[0, 2], [1, 0], [1, 1]]], [[[1, 2], [0, 0], [1, 2]]]])


def test_counts_by_siblings_and_by_leaf() -> None:
    found = load.load(made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"]), LAYER)
    outer, inner = found.levels
    np.testing.assert_array_equal(outer.chosen.counts, [[2, 4]])
    np.testing.assert_array_equal(inner.chosen.counts, [[1, 0, 1], [1, 1, 2]])
    np.testing.assert_array_equal(inner.processed.counts, inner.chosen.counts)
    np.testing.assert_array_equal(found.chosen_leaves.counts, [[1, 0, 1, 1, 1, 2]])
    assert [level.level.name for level in found.levels] == ["outer", "inner"]
    assert [level.tokens for level in found.levels] == [6, 6]
    assert [level.dropped for level in found.levels] == [0, 0]
    assert [level.unchosen for level in found.levels] == [0, 0]


def test_measures_of_a_hand_table() -> None:
    inner = Balance(np.array([[1, 0, 1], [1, 1, 2]]))
    np.testing.assert_allclose(inner.shares, [[1 / 2, 0, 1 / 2], [1 / 4, 1 / 4, 1 / 2]])
    np.testing.assert_allclose(inner.max_violation, [1 / 2, 1 / 2])
    np.testing.assert_allclose(inner.gini, [1 / 3, 1 / 6])
    np.testing.assert_allclose(inner.effective_experts, [2, 2**1.5])
    np.testing.assert_array_equal(inner.dead, [[False, True, False], [False, False, False]])


def test_what_is_unused_dropped_retried_or_unchosen() -> None:
    trace = made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"])
    columns = {name: trace.numbers[name].copy() for name in ("used", "went", "expert")}
    columns["used"][1] = False  # an inner choice of group 0, expert 2
    columns["went"][3] = -1  # of group 1, expert 0
    columns["went"][5] = 0  # of group 1, expert 1
    columns["expert"][7] = columns["went"][7] = -1  # of group 1, expert 2
    changed = dataclasses.replace(trace, numbers={**trace.numbers, **columns})
    found = load.load(changed, LAYER)
    inner = found.levels[1]
    np.testing.assert_array_equal(inner.chosen.counts, [[1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(inner.processed.counts, [[1, 0, 0], [1, 0, 1]])
    np.testing.assert_array_equal(found.processed_leaves.counts, [[1, 0, 0, 1, 0, 1]])
    assert inner.dropped == 1 - 3 / 4
    assert (inner.tokens, inner.unchosen) == (6, 1)


def test_copies_of_a_token_count_apart() -> None:
    trace = made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"])
    columns = {name: trace.numbers[name].copy() for name in ("position", "path")}
    columns["position"][3] = 0  # the inner choice at position 1 becomes a second copy of position 0
    columns["path"][3] = 1
    changed = dataclasses.replace(trace, numbers={**trace.numbers, **columns})
    assert load.load(changed, LAYER).levels[1].tokens == 6
    columns["path"][3] = 0
    assert load.load(changed, LAYER).levels[1].tokens == 5


@pytest.mark.parametrize("number", [1, 3, 7])
def test_an_even_load_and_all_on_one(number: int) -> None:
    even = Balance(np.full((1, number), 5))
    np.testing.assert_allclose(even.effective_experts, number)
    np.testing.assert_allclose(even.gini, 0, atol=1e-15)
    np.testing.assert_allclose(even.max_violation, 0, atol=1e-15)
    one = Balance(9 * np.eye(number, dtype=np.int64)[:1])
    np.testing.assert_allclose(one.effective_experts, 1)
    np.testing.assert_allclose(one.gini, 1 - 1 / number, atol=1e-15)
    np.testing.assert_allclose(one.max_violation, number - 1)
    assert one.dead.sum() == number - 1


def test_a_group_without_choices_is_even() -> None:
    empty = Balance(np.zeros((1, 4), np.int64))
    np.testing.assert_allclose(empty.shares, np.full((1, 4), 1 / 4))
    np.testing.assert_allclose(empty.effective_experts, 4)
    assert not empty.dead.any()
    nothing = made_traces.of_experts(EXPERTS[:0], (2, 3), ["de"])
    outer, inner = load.load(nothing, LAYER).levels
    assert inner.dropped == 0
    assert outer.tokens == 0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any))
def test_gini_is_the_mean_difference(counts: list[int]) -> None:
    found = Balance(np.array([counts])).gini
    number, total = len(counts), sum(counts)
    differences = sum(abs(one - other) for one in counts for other in counts)
    np.testing.assert_allclose(found, differences / (2 * number * total), atol=1e-12)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any))
def test_bounds(counts: list[int]) -> None:
    found = Balance(np.array([counts]))
    alive = sum(count > 0 for count in counts)
    assert 1 - 1e-12 <= found.effective_experts[0] <= alive + 1e-9
    assert -1e-12 <= found.max_violation[0] <= len(counts) - 1 + 1e-12
    assert found.dead.sum() == len(counts) - alive


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError) as caught:
        load.load(made_traces.trace(2, 3, (2, 3), seed=0), "decoder")
    assert str(caught.value) == f"the trace has no layer 'decoder'; it has '{LAYER}'"
