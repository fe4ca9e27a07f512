"""Sums become names: by hand for two layers of one and two levels."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.layer import metrics

# full, arrivals, left behind, filled, slots, confidence, entropy; placed by rank; gates.
OUTER = np.array([8, 10, 2, 12, 16, 6, 4, 7, 4, 5, 3], np.float32)
INNER = np.array([[4, 6, 1, 5, 8, 2, 3, 4, 1, 2, 2], [2, 4, 3, 2, 8, 1, 1, 2, 0, 1, 1]], np.float32)


# Of each kind: loss times tokens, tokens, factor times tokens.
OUTER_LOSSES = np.array([[20, 8, 1.6], [8, 8, 0.4], [20, 10, 1.0]], np.float32)
INNER_LOSSES = np.array([[9, 6, 0.6], [24, 6, 0.15]], np.float32)


def two_levels():
    """In the order in which a session returns them: by name, the inner level first."""
    return {
        "inner/load": np.array([[4, 0, 2], [1, 1, 1]]),
        "inner/losses": INNER_LOSSES.ravel(),
        "inner/tokens": INNER,
        "outer/load": np.array([6, 2]),
        "outer/losses": OUTER_LOSSES.ravel(),
        "outer/tokens": OUTER,
        # Of 5 groups 4 hold a token; 2 tokens lost at the outer level, 1 at the inner.
        "reached": np.array([10, 3, 7, 16, 2, 5, 4, 2, 1], np.float32),
    }


def one_level():
    return {"only/losses": np.array([4, 4, 1, 0, 4, 0], np.float32)}


def test_names_of_a_layer():
    named = metrics.summarize({"encoder/block_000/layer_001": two_levels()})
    expected = {
        "outer/auxiliary_loss": 2.5,
        "outer/router_z_loss": 1.0,
        "outer/second_place_loss": 2.0,
        "outer/weighted_loss": 0.75,
        "outer/fraction_arrivals_dropped": 0.2,
        "outer/expert_usage": 0.75 * 5 / 4,
        "outer/router_confidence": 0.5,
        "outer/entropy": 0.5,
        "outer/fraction_routed_rank_0": 7 / 8,
        "outer/fraction_routed_rank_1": 0.5,
        "outer/gate_mean_rank_0": 5 / 8,
        "outer/gate_mean_rank_1": 3 / 8,
        "outer/load_imbalance": 1.5,
        "outer/max_violation": 0.5,
        "outer/dead_experts": 0,
        "inner/auxiliary_loss": 1.5,
        "inner/router_z_loss": 4.0,
        "inner/weighted_loss": 0.25,
        "inner/fraction_arrivals_dropped": 0.4,
        "inner/expert_usage": 7 / 16 * 5 / 4,
        "inner/router_confidence": 3 / 7,
        "inner/entropy": 4 / 6,
        "inner/fraction_routed_rank_0": 1.0,
        "inner/fraction_routed_rank_1": 1 / 6,
        "inner/gate_mean_rank_0": 0.5,
        "inner/gate_mean_rank_1": 0.5,
        # Families weighted by load: (6 * 2 + 3 * 1) / 9.
        "inner/load_imbalance": 15 / 9,
        "inner/max_violation": 6 / 9,
        "inner/dead_experts": 1,
        "outer/fraction_tokens_dropped": 0.2,
        "inner/fraction_tokens_dropped": 0.1,
        "outer/load_0": 6 / 8,
        "outer/load_1": 2 / 8,
        "inner/load_0": 5 / 9,
        "inner/load_1": 1 / 9,
        "inner/load_2": 3 / 9,
        "auxiliary_loss": 2.0,
        "router_z_loss": 2.5,
        "weighted_loss": 1.0,
        "fraction_tokens_left_behind": 0.3,
        "expert_usage": 35 / 64,
        "router_confidence": 2 / 7,
        # Of all six experts: 4 of 9 where 1.5 were the mean.
        "load_imbalance": 4 / 1.5,
        "max_violation": 4 / 1.5 - 1,
        "dead_experts": 1,
    }
    of_layer = {
        name[len("encoder/block_000/layer_001/") :]: value
        for name, value in named.items()
        if not name.startswith("experts/")
    }
    assert of_layer == pytest.approx(expected)


def test_model_is_the_mean_over_layers_and_the_sum_of_what_training_adds():
    named = metrics.summarize({"a": two_levels(), "b": one_level()})
    of_model = {name: value for name, value in named.items() if name.startswith("experts/")}
    assert of_model == pytest.approx(
        {
            "experts/auxiliary_loss": 1.5,
            "experts/router_z_loss": 1.25,
            "experts/weighted_loss": 1.25,
            "experts/fraction_tokens_left_behind": 0.3,
            "experts/expert_usage": 7 / 16 * 5 / 4,
            "experts/router_confidence": 2 / 7,
            "experts/load_imbalance": 4 / 1.5,
            "experts/dead_experts": 1,
            "experts/outer/max_violation": 0.5,
            "experts/inner/max_violation": 6 / 9,
            "experts/outer/fraction_tokens_dropped": 0.2,
            "experts/inner/fraction_tokens_dropped": 0.1,
        }
    )


def test_brief_sums_leave_out_the_detail():
    sums = two_levels()
    sums["outer/tokens"], sums["inner/tokens"] = OUTER[:6], INNER[:, :6]
    brief, full = metrics.summarize({"a": sums}), metrics.summarize({"a": two_levels()})
    detail = {
        f"a/{level}/{name}"
        for level, experts in (("outer", 2), ("inner", 3))
        for name in (
            "entropy",
            "fraction_routed_rank_0",
            "fraction_routed_rank_1",
            "gate_mean_rank_0",
            "gate_mean_rank_1",
            *(f"load_{number}" for number in range(experts)),
        )
    }
    assert set(full) - set(brief) == detail
    assert brief == {name: full[name] for name in brief}


def test_nothing_to_summarize():
    with pytest.raises(ValueError) as error:
        metrics.summarize({})
    assert str(error.value) == (
        "no metrics of experts were found: no layer of the model is an hmoe.MoELayer"
    )


def test_no_token_is_no_division():
    sums = {key: value * 0 for key, value in two_levels().items()}
    assert np.isfinite(list(metrics.summarize({"a": sums}).values())).all()
