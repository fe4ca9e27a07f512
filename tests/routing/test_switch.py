"""The switch router by hand, and its relatives."""

from __future__ import annotations

import math

import pytest

import hmoe
from tests.routing.tables import assert_weights, assign

CROWD = [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.7, 0.2, 0.1]]


def test_one_expert_a_token_with_its_probability():
    table = assign(hmoe.SwitchRouter(), CROWD, capacity=2)
    assert table.buffers == [[0, 1], [None, None], [None, None]]
    assert_weights(table, [{0: 0.6}, {0: 0.5}, {}])
    assert table.demand == [3, 0, 0]


def test_partial_token_is_placed_last_with_its_probability():
    table = assign(hmoe.SwitchRouter(), CROWD, capacity=2, importance=[0.5, 1, 0])
    assert table.buffers == [[1, 0], [None, None], [None, None]]
    assert_weights(table, [{0: 0.6}, {0: 0.5}, {}])


def gumbel_of(number):
    """The random number whose Gumbel variable this is."""
    return math.exp(-math.exp(-number))


# Added to the logits of each token: what makes another expert win.
DRAWN = [[gumbel_of(g) for g in row] for row in ([0, 1, 0], [0, 0, 0], [0, 0, 1.8])]


def test_sampling_is_the_largest_of_logits_and_noise():
    # log .6 = -.51, log .3 + 1 = -.2; log .7 = -.36, log .1 + 1.8 = -.5.
    router = hmoe.SwitchRouter(selection_train="sample")
    table = assign(router, CROWD, capacity=3, train=True, uniforms={"sample": DRAWN})
    assert_weights(table, [{1: 0.3}, {0: 0.5}, {0: 0.7}])


def test_temperature_divides_the_logits():
    # A third of them: the noise decides for token 2 as well.
    router = hmoe.SwitchRouter(selection_train="sample", temperature=3.0)
    table = assign(router, CROWD, capacity=3, train=True, uniforms={"sample": DRAWN})
    assert_weights(table, [{1: 0.3}, {0: 0.5}, {2: 0.1}])


def test_evaluation_does_not_sample_unless_asked():
    router = hmoe.SwitchRouter(selection_train="sample")
    assert assign(router, CROWD, capacity=3).demand == [3, 0, 0]
    router = hmoe.SwitchRouter(selection_eval="sample")
    table = assign(router, CROWD, capacity=3, uniforms={"sample": DRAWN})
    assert table.demand == [2, 1, 0]


def test_switch_max_keeps_the_tokens_of_highest_probability():
    table = assign(hmoe.SwitchRouter(priority=True), CROWD, capacity=2)
    assert table.buffers == [[2, 0], [None, None], [None, None]]
    assert_weights(table, [{0: 0.6}, {}, {0: 0.7}])


def test_no_token_is_left_behind():
    table = assign(hmoe.SwitchRouter(retries=1), CROWD, capacity=1)
    # Token 1 tries expert 2, token 2 tries expert 1.
    assert table.buffers == [[0], [2], [1]]
    assert_weights(table, [{0: 0.6}, {2: 0.4}, {1: 0.2}])
    assert table.demand == [3, 0, 0]


def test_no_token_left_behind_gives_up_after_its_tries():
    alike = [[0.5, 0.3, 0.2]] * 3
    assert assign(hmoe.SwitchRouter(retries=1), alike, capacity=1).buffers == [[0], [1], [None]]
    assert assign(hmoe.SwitchRouter(retries=2), alike, capacity=1).buffers == [[0], [1], [2]]


def test_no_token_left_behind_takes_partial_tokens_and_no_padding():
    alike = [[0.5, 0.3, 0.2]] * 3
    table = assign(hmoe.SwitchRouter(retries=2), alike, capacity=1, importance=[0.5, 0, 1])
    assert table.buffers == [[2], [0], [None]]
    assert_weights(table, [{1: 0.3}, {}, {0: 0.5}])


def test_after_a_sampled_expert_come_the_others_by_probability():
    router = hmoe.SwitchRouter(selection_eval="sample", retries=1)
    drawn = [[gumbel_of(g) for g in row] for row in ([0, 0, 9], [0, 0, 9], [0, 0, 9])]
    table = assign(router, CROWD, capacity=1, uniforms={"sample": drawn})
    assert table.buffers == [[1], [None], [0]]
    assert_weights(table, [{2: 0.1}, {0: 0.5}, {}])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "switch_gating"),
        ({"retries": 1}, "ntlb_gating"),
        ({"priority": True}, "switch_max_gating"),
        ({"priority": True, "retries": 1}, "switch_max_gating"),
    ],
)
def test_variables_have_upstreams_names(settings, name):
    assert hmoe.SwitchRouter(**settings).variable_name() == name
