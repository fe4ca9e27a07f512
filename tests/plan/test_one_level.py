"""The flat mixture beside a hierarchy."""

from __future__ import annotations

import hmoe
from hmoe.plan.one_level import one_level


def test_as_many_experts_and_slots() -> None:
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="a", num_experts=3, router=hmoe.TopKRouter(k=2), capacity_factor_train=1.5
            ),
            hmoe.Level(name="b", num_experts=5, router=hmoe.SwitchRouter()),
            hmoe.Level(
                name="c", num_experts=2, router=hmoe.SwitchRouter(), capacity_factor_train=1.1
            ),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=7),
        metrics="off",
    )
    found = one_level(moe)
    (level,) = found.levels
    assert (level.name, level.num_experts, level.router) == ("a", 30, hmoe.TopKRouter(k=2))
    # The second level has the default inside a hierarchy, 1.
    assert level.capacity_factor_train == 1.65
    assert (found.experts, found.metrics) == (moe.experts, "off")
    assert one_level(found) == found
