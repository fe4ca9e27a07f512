"""What a gate does to its inputs and scores, by hand."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from tests.routing.tables import assert_weights, assign

P = [[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.7, 0.2, 0.1]]


def test_sigmoid_scores_are_independent():
    router = hmoe.TopKRouter(k=2, gate=hmoe.Gate(function="sigmoid"), weight_norm=None)
    logits = np.log([[3.0, 1.0, 0.25], [4.0, 9.0, 1.0]])
    assert_weights(
        assign(router, None, logits=logits, capacity=2), [{0: 0.75, 1: 0.5}, {0: 0.8, 1: 0.9}]
    )


def test_vanishing_sigmoids_still_make_weights():
    router = hmoe.TopKRouter(k=2, gate=hmoe.Gate(function="sigmoid"))
    table = assign(router, None, logits=[[-60.0, -70.0, -80.0]], capacity=1)
    # Each is the 1e-7 that is added; a weight is divided by 2e-7 and by 1e-9 more.
    assert table.weights[0] == {0: pytest.approx(0.5, rel=0.01), 1: pytest.approx(0.5, rel=0.01)}


def test_jitter_multiplies_inputs_between_its_bounds():
    router = hmoe.SwitchRouter(gate=hmoe.Gate(jitter=0.5))
    # 0 is a factor of a half, a half leaves it, 1 would be one and a half.
    numbers = {"jitter": [[0, 0.5, 0.5], [0.5, 0.5, 0.5]]}
    table = assign(
        router,
        None,
        logits=[[2.0, 1.5, 0.0], [2.0, 1.5, 0.0]],
        capacity=2,
        train=True,
        uniforms=numbers,
    )
    assert table.demand == [1, 1, 0]
    weight = np.exp(1.5) / np.exp([1.0, 1.5, 0.0]).sum()
    assert_weights(table, [{1: weight}, {0: np.exp(2) / np.exp([2.0, 1.5, 0.0]).sum()}])


def test_dropout_of_the_inputs_scales_what_is_left():
    router = hmoe.SwitchRouter(gate=hmoe.Gate(input_dropout=0.2))
    # Kept where the number is below 0.8.
    table = assign(
        router,
        None,
        logits=[[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]],
        capacity=2,
        train=True,
        uniforms={"input_dropout": [[0.9, 0.1, 0.1], [0.7, 0.9, 0.1]]},
    )
    assert_weights(
        table,
        [
            {1: np.exp(1.25) / np.exp([0, 1.25, 0]).sum()},
            {0: np.exp(2.5) / np.exp([2.5, 0, 0]).sum()},
        ],
    )


def test_exploring_takes_the_second_expert():
    router = hmoe.TopKRouter(k=1, gate=hmoe.Gate(explore_probability=0.3))
    table = assign(router, P, capacity=3, train=True, uniforms={"explore": [0.2, 0.2, 0.4]})
    # Of what the best leaves over.
    assert_weights(table, [{1: 0.3 / 0.4}, {2: 0.4 / 0.5}, {0: 0.7}])


def test_exploring_with_two_choices_takes_the_second_and_the_third():
    router = hmoe.TopKRouter(k=2, policy_train="all", gate=hmoe.Gate(explore_probability=0.3))
    table = assign(router, P, capacity=3, train=True, uniforms={"explore": [0.2, 0.4, 0.4]})
    assert_weights(table, [{1: 3 / 4, 2: 1 / 4}, {0: 5 / 9, 2: 4 / 9}, {0: 7 / 9, 1: 2 / 9}])


def test_exploring_by_temperature_samples_one_of_the_rest_for_certain():
    router = hmoe.SwitchRouter(gate=hmoe.Gate(explore_probability=0.3, explore_temperature=1.0))
    noise = np.exp(-np.exp(-np.array([[9.0, 0, 2], [0, 0, 0], [0, 0, 9]])))
    table = assign(
        router,
        P,
        capacity=3,
        train=True,
        uniforms={"explore": [0.2, 0.2, 0.4], "explore_sample": noise},
    )
    # The best is never sampled, however much noise it has: log .3 = -1.2 < log .1 + 2.
    assert_weights(table, [{2: 1}, {2: 1}, {0: 0.7}])


def test_evaluation_does_nothing_of_this():
    gate = hmoe.Gate(jitter=0.5, input_dropout=0.2, explore_probability=0.3)
    # There are no random numbers to draw.
    table = assign(hmoe.SwitchRouter(gate=gate), P, capacity=3)
    assert_weights(table, [{0: 0.6}, {0: 0.5}, {0: 0.7}])
