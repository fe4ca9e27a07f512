"""How levels stand: by hand, from the sums of two layers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hmoe
from hmoe.layer.level_states import level_states
from tests.layer.test_metrics import one_level, two_levels


def test_states_of_two_levels() -> None:
    outer, inner = level_states({"encoder/block_000/layer_001": two_levels()})
    assert (outer.layer, outer.level, outer.is_innermost) == (
        "encoder/block_000/layer_001",
        "outer",
        False,
    )
    assert outer.load.tolist() == [6, 2]
    assert (outer.dropped, outer.entropy, outer.imbalance) == (2 / 10, 4 / 8, 1.5)
    assert outer.relative_load.tolist() == [1.5, 0.5]
    assert (inner.level, inner.is_innermost) == ("inner", True)
    assert inner.load.tolist() == [[4, 0, 2], [1, 1, 1]]
    assert (inner.dropped, inner.entropy) == (1 / 10, (3 + 1) / (4 + 2))
    # 3 * 4 / 6 of 6 tokens, and 1 of 3.
    assert inner.imbalance == (2 * 6 + 1 * 3) / 9
    assert inner.relative_load.tolist() == [[4 / 1.5, 0, 2 / 1.5], [1 / 1.5] * 3]
    assert inner.where == "encoder/block_000/layer_001, level inner"


def test_brief_metrics_have_no_entropy_and_none_have_no_states() -> None:
    brief = {
        name: value[..., :6] if name.endswith("/tokens") else value
        for name, value in two_levels().items()
    }
    states = level_states({"without metrics": one_level(), "brief": brief})
    assert [(state.layer, state.entropy) for state in states] == [("brief", None)] * 2


def test_brief_metrics_bound_the_entropy_of_known_routers() -> None:
    brief = {
        name: value[..., :6] if name.endswith("/tokens") else value
        for name, value in two_levels().items()
    }
    routers = {"a": {"outer": hmoe.SwitchRouter()}, "b": {"inner": hmoe.SwitchRouter()}}
    outer, inner = level_states({"a": brief}, routers)
    # Of 8 tokens with a slot 2 are partial, and 12 slots have weights of 6: 4 of 6 are missing.
    assert (outer.entropy, outer.entropy_at_most) == (None, math.log(2))
    assert (inner.entropy, inner.entropy_at_most) == (None, None)
    # Now the weights are 9.7, so that 0.3 of 6 are missing: h(0.05), with 2 experts.
    sure = {**brief, "outer/tokens": brief["outer/tokens"] + [0, 0, 0, 0, 0, 3.7]}
    outer, _ = level_states({"a": sure}, routers)
    bound = -0.95 * math.log(0.95) - 0.05 * math.log(0.05)
    assert outer.entropy_at_most == pytest.approx(bound, rel=1e-6)
    # What is measured needs no bound.
    outer, _ = level_states({"a": two_levels()}, routers)
    assert (outer.entropy, outer.entropy_at_most) == (4 / 8, None)


def test_a_level_without_tokens() -> None:
    sums = {name: np.zeros_like(value) for name, value in two_levels().items()}
    outer, inner = level_states({"a": sums})
    assert outer.relative_load.tolist() == [0, 0]
    assert (inner.dropped, inner.entropy, inner.imbalance) == (0.0, None, 1.0)
