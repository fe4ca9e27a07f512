"""Uniform assignment by hand."""

from __future__ import annotations

import hmoe
from tests.routing.tables import assert_weights, assign

P = [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]


def test_tokens_are_dealt_in_turn_whatever_their_scores():
    table = assign(hmoe.UniformRouter(), P, capacity=2)
    assert table.buffers == [[0, 3], [1, None], [2, None]]
    assert_weights(table, [{0: 0.6}, {1: 0.1}, {2: 0.1}, {0: 0.2}])


def test_two_choices_of_a_token_are_neighbours():
    # Tokens 0 to 3: experts 0 1, 2 0, 1 2, 0 1.
    table = assign(hmoe.UniformRouter(k=2, weight_norm=1.0), P, capacity=2)
    assert table.buffers == [[0, 3], [2, 0], [1, 2]]
    assert table.ranks == [{0: 0, 1: 1}, {2: 0}, {1: 0, 2: 1}, {0: 0}]
    assert_weights(table, [{0: 6 / 9, 1: 3 / 9}, {2: 4 / 9}, {1: 2 / 3, 2: 1 / 3}, {0: 2 / 9}])
    assert table.demand == [3, 3, 2]


def test_partial_token_has_its_first_choice_and_padding_keeps_its_turn():
    table = assign(
        hmoe.UniformRouter(k=2, weight_norm=1.0), P, capacity=2, importance=[0.5, 1, 0, 1]
    )
    assert table.buffers == [[3, 0], [3, None], [1, None]]
    assert_weights(table, [{0: 1}, {2: 4 / 9}, {}, {0: 2 / 9, 1: 7 / 9}])
    assert table.demand == [3, 1, 1]
