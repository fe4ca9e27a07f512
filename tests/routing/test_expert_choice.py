"""Expert choice by hand, in both forms."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from tests.routing.tables import assert_weights, assign

P = [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]


def test_every_expert_takes_its_best_tokens():
    table = assign(hmoe.ExpertChoiceRouter(), P, capacity=2)
    # The third expert's tie goes to the earliest.
    assert table.buffers == [[2, 0], [3, 0], [1, 0]]
    assert table.ranks == [{0: 0, 1: 0, 2: 0}, {2: 0}, {0: 0}, {1: 0}]
    assert_weights(table, [{0: 0.6, 1: 0.3, 2: 0.1}, {2: 0.4}, {0: 0.7}, {1: 0.7}])
    assert table.demand == [2, 2, 2]


def test_partial_tokens_are_as_good_as_full_ones_and_padding_is_not_taken():
    table = assign(hmoe.ExpertChoiceRouter(), P, capacity=2, importance=[1, 1, 0.5, 0])
    assert table.buffers == [[2, 0], [0, 2], [1, 0]]


def test_slots_stay_empty_where_tokens_are_few():
    table = assign(hmoe.ExpertChoiceRouter(), P, capacity=3, importance=[0, 0, 1, 0.5])
    assert table.buffers == [[2, 3, None], [3, 2, None], [2, 3, None]]
    assert table.demand == [2, 2, 2]


def test_softmax_over_tokens_divides_by_the_experts_that_took_one():
    logits = np.log([[4.0, 1.0, 1.0], [3.0, 1.0, 6.0], [2.0, 5.0, 1.0], [1.0, 3.0, 2.0]])
    table = assign(hmoe.ExpertChoiceRouter(softmax_over="tokens"), None, logits=logits, capacity=2)
    # Columns add up to 10.
    assert table.buffers == [[0, 1], [2, 3], [1, 3]]
    assert_weights(table, [{0: 0.4}, {0: 0.15, 2: 0.3}, {1: 0.5}, {1: 0.15, 2: 0.1}])


def test_softmax_over_tokens_knows_no_padding():
    logits = np.log([[4.0, 1.0], [3.0, 1.0], [2.0, 5.0], [99.0, 99.0]])
    table = assign(
        hmoe.ExpertChoiceRouter(softmax_over="tokens"),
        None,
        logits=logits,
        capacity=1,
        importance=[1, 0.5, 1, 0],
    )
    assert table.buffers == [[0], [2]]
    assert_weights(table, [{0: 4 / 9}, {}, {1: 5 / 7}, {}])


def test_sigmoid_affinity_is_the_weight():
    router = hmoe.ExpertChoiceRouter(gate=hmoe.Gate(function="sigmoid"))
    logits = np.log([[3.0, 1.0], [1.0, 4.0]])
    table = assign(router, None, logits=logits, capacity=1)
    assert_weights(table, [{0: 3 / 4}, {1: 4 / 5}])


@pytest.mark.parametrize("over", ["experts", "tokens"])
def test_a_group_of_padding_fills_nothing(over):
    table = assign(
        hmoe.ExpertChoiceRouter(softmax_over=over), P, capacity=2, importance=[0, 0, 0, 0]
    )
    assert table.buffers == [[None, None]] * 3
    assert table.weights == [{}, {}, {}, {}]
