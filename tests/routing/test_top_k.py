"""Top-k by hand: who stands where, with what weight."""

from __future__ import annotations

import pytest

import hmoe
from tests.routing.tables import assert_weights, assign

# All want expert 0 first; the second choices differ.
CROWD = [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.7, 0.2, 0.1]]


def test_second_choices_are_placed_after_all_first_ones():
    table = assign(hmoe.TopKRouter(k=2), CROWD, capacity=2)
    assert table.buffers == [[0, 1], [0, 2], [1, None]]
    assert table.ranks == [{0: 0, 1: 1}, {0: 0, 2: 1}, {1: 1}]
    assert table.demand == [3, 2, 1]
    assert_weights(table, [{0: 6 / 9, 1: 3 / 9}, {0: 5 / 9, 2: 4 / 9}, {1: 2 / 9}])


@pytest.mark.parametrize(
    ("norm", "divisors"), [(2.0, [0.45**0.5, 0.41**0.5, 0.53**0.5]), (None, [1, 1, 1])]
)
def test_norm_of_the_weights(norm, divisors):
    table = assign(hmoe.TopKRouter(k=2, weight_norm=norm), CROWD, capacity=3)
    a, b, c = divisors
    assert_weights(
        table, [{0: 0.6 / a, 1: 0.3 / a}, {0: 0.5 / b, 2: 0.4 / b}, {0: 0.7 / c, 1: 0.2 / c}]
    )


def test_one_choice_keeps_its_probability():
    table = assign(hmoe.TopKRouter(k=1), CROWD, capacity=2)
    assert table.buffers == [[0, 1], [None, None], [None, None]]
    assert_weights(table, [{0: 0.6}, {0: 0.5}, {}])


def test_more_choices_than_experts_are_all_experts():
    table = assign(hmoe.TopKRouter(k=5), CROWD[:2], capacity=2)
    assert table.buffers == [[0, 1], [0, 1], [1, 0]]
    assert_weights(table, [{0: 0.6, 1: 0.3, 2: 0.1}, {0: 0.5, 1: 0.1, 2: 0.4}])


def test_a_tie_goes_to_the_expert_of_lower_number():
    table = assign(hmoe.TopKRouter(k=2), [[0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]], capacity=2)
    assert table.ranks == [{1: 0, 2: 1}, {0: 0, 1: 1}]


def test_partial_token_comes_after_the_first_choices_and_has_one():
    table = assign(hmoe.TopKRouter(k=2), CROWD, capacity=2, importance=[0.5, 1, 1])
    assert table.buffers == [[1, 2], [2, None], [1, None]]
    table = assign(hmoe.TopKRouter(k=2), CROWD, capacity=3, importance=[0.5, 1, 1])
    assert table.buffers == [[1, 2, 0], [2, None, None], [1, None, None]]
    assert_weights(table, [{0: 1}, {0: 5 / 9, 2: 4 / 9}, {0: 7 / 9, 1: 2 / 9}])
    assert table.ranks[0] == {0: 0}


def test_partial_token_keeps_its_probability_where_weights_are_not_normalised():
    for router in (hmoe.TopKRouter(k=1), hmoe.TopKRouter(k=2, weight_norm=None)):
        assert assign(router, CROWD, capacity=3, importance=[0.5, 1, 1]).weights[0] == {
            0: pytest.approx(0.6)
        }


def test_partial_token_heeds_no_policy():
    router = hmoe.TopKRouter(k=2, policy_eval="none")
    table = assign(router, CROWD, capacity=3, importance=[1, 0.5, 1])
    assert table.buffers == [[0, 2, 1], [None] * 3, [None] * 3]


def test_padding_stands_nowhere_and_asks_for_nothing():
    table = assign(hmoe.TopKRouter(k=2), CROWD, capacity=2, importance=[0, 1, 1])
    assert table.buffers == [[1, 2], [2, None], [1, None]]
    assert table.demand == [2, 1, 1]
    assert table.weights[0] == {}


@pytest.mark.parametrize(
    ("policy", "kept"), [("none", []), ("threshold", [1]), ("random", [0, 1]), ("all", [0, 1, 2])]
)
def test_policy_of_later_choices(policy, kept):
    # Weights of the second choices are 1/3, 4/9 and 2/9.
    router = hmoe.TopKRouter(k=2, policy_train=policy, threshold_train=0.4)
    table = assign(router, CROWD, capacity=3, train=True, uniforms={"level": 0.8})
    assert [t for t in range(3) if len(table.weights[t]) == 2] == kept
    assert table.demand == [3, 2, 1]
    # What policy dropped leaves the other weight as it was.
    assert table.weights[0][0] == pytest.approx(6 / 9)


def test_priority_places_by_the_probability_of_the_first_choice():
    table = assign(hmoe.TopKRouter(k=2, priority=True), CROWD, capacity=1)
    assert table.buffers == [[2], [2], [1]]
    table = assign(hmoe.TopKRouter(k=2, priority=True), CROWD, capacity=2)
    assert table.buffers == [[2, 0], [2, 0], [1, None]]


def test_priority_leaves_ties_in_their_order_and_partial_tokens_in_their_round():
    even = [[0.6, 0.4], [0.6, 0.4], [0.8, 0.2]]
    assert assign(hmoe.TopKRouter(k=1, priority=True), even, capacity=2).buffers[0] == [2, 0]
    table = assign(hmoe.TopKRouter(k=2, priority=True), even, capacity=2, importance=[1, 1, 0.5])
    assert table.buffers == [[0, 1], [0, 1]]


def test_retry_takes_the_next_expert_with_its_weight():
    # Token 2 finds expert 0 full, and goes to expert 2, its third.
    table = assign(hmoe.TopKRouter(k=2, retries=1), CROWD, capacity=2)
    assert table.buffers == [[0, 1], [0, 2], [1, 2]]
    assert table.ranks[2] == {1: 1, 2: 0}
    assert_weights(table, [{0: 6 / 9, 1: 3 / 9}, {0: 5 / 9, 2: 4 / 9}, {1: 2 / 9, 2: 1 / 9}])
    # Nothing but where it stands has changed.
    assert table.demand == [3, 2, 1]


def test_retries_go_on_until_there_is_room_one_choice_of_a_token_each_time():
    alike = [[0.4, 0.3, 0.2, 0.1]] * 3
    router = hmoe.TopKRouter(k=2, retries=1)
    table = assign(router, alike, capacity=1)
    # Token 0 has experts 0 and 1; token 1 offers its first choice to expert 2.
    assert table.buffers == [[0], [0], [1], [None]]
    assert table.ranks == [{0: 0, 1: 1}, {2: 0}, {}]
    table = assign(hmoe.TopKRouter(k=2, retries=2), alike, capacity=1)
    # Then token 1 offers its second choice to expert 3, before token 2.
    assert table.buffers == [[0], [0], [1], [1]]
    assert table.ranks[1] == {2: 0, 3: 1}
    assert_weights(table, [{0: 4 / 7, 1: 3 / 7}, {2: 2 / 7, 3: 1 / 7}, {}])


def test_more_retries_than_experts_are_no_more():
    alike = [[0.5, 0.3, 0.2]] * 4
    assert assign(hmoe.TopKRouter(k=1, retries=9), alike, capacity=1).buffers == [[0], [1], [2]]


def test_retries_of_a_partial_token_begin_after_its_own_expert():
    table = assign(hmoe.TopKRouter(k=2, retries=1), CROWD, capacity=2, importance=[0.5, 1, 1])
    assert table.buffers == [[1, 2], [2, 0], [1, None]]
    # Divided by the norm of its one choice.
    assert table.weights[0] == {1: pytest.approx(0.3 / 0.6)}
    assert table.ranks[0] == {1: 0}


def test_choices_that_policy_dropped_are_not_retried():
    router = hmoe.TopKRouter(k=2, policy_eval="none", retries=1)
    assert assign(router, CROWD, capacity=2).buffers == [[0, 1], [None, None], [2, None]]


def test_retries_go_by_priority_too():
    router = hmoe.TopKRouter(k=1, retries=1, priority=True)
    table = assign(router, [[0.5, 0.4, 0.1], [0.6, 0.3, 0.1], [0.7, 0.2, 0.1]], capacity=1)
    assert table.buffers == [[2], [1], [None]]


def test_balance_bias_chooses_but_does_not_weigh():
    router = hmoe.TopKRouter(k=2, bias_update_rate=0.1)
    table = assign(router, CROWD, capacity=3, balance_bias=[-0.35, 0, 0.25])
    # Preferences: .25 .3 .35; .15 .1 .65; .35 .2 .35.
    assert table.ranks == [{2: 0, 1: 1}, {2: 0, 0: 1}, {0: 0, 2: 1}]
    assert_weights(table, [{1: 3 / 4, 2: 1 / 4}, {0: 5 / 9, 2: 4 / 9}, {0: 7 / 8, 2: 1 / 8}])


def test_priority_knows_no_balance_bias():
    router = hmoe.TopKRouter(k=1, bias_update_rate=0.1, priority=True)
    table = assign(router, [[0.45, 0.55], [0.6, 0.4]], capacity=1, balance_bias=[0.2, 0])
    # Both take expert 0 now: .65 and .8, with probabilities .45 and .6.
    assert table.buffers == [[1], [None]]
    assert_weights(table, [{}, {0: 0.6}])
