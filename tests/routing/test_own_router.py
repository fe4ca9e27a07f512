"""A user's own router: one method to write, and the layer as it is."""

from __future__ import annotations

import pathlib
import re
import sys

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.t5 import configurables
from tests import seeded, tolerances
from tests.gin import configs
from tests.run_layer import run_layer

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "add_a_router.md"

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 4), ("d_model", 7))


class LastExpertRouter(hmoe.TokenChoiceRouter):
    """Sends every token to the expert of the highest number."""

    def rank_experts(self, scores, count, context):
        shape = mtf.Shape(scores.logits.shape.dims[:-1] + [mtf.Dimension("preference", count)])
        last = scores.experts_dim.size - 1
        return mtf.constant(scores.logits.mesh, last, shape, dtype=tf.int32)


def test_layer_works_with_a_router_of_the_users_own():
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="outer",
                num_experts=3,
                router=LastExpertRouter(),
                group_size=4,
                capacity_factor_train=3.0,
            ),
            hmoe.Level(
                name="inner",
                num_experts=2,
                router=hmoe.TopKRouter(k=1),
                group_size=8,
                capacity_factor_train=2.0,
            ),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11),
    )
    x = seeded.tokens_of(DIMS)
    importance = seeded.importance_of(DIMS, partial=False)
    run = run_layer(moe, x, DIMS, importance=importance)
    assert run.sums["outer/load"].tolist() == [0, 0, importance.sum()]
    assert moe.num_active_params(7, 13) == 7 * 3 + 7 * 2 + 7 * 11 + 11 * 13

    def softmax(logits):
        values = np.exp(logits)
        return values / values.sum(axis=-1, keepdims=True)

    outer = softmax(x @ run.weights["outer_gating/kernel"])[..., 2]
    inner = softmax(x @ run.weights["inner_gating/kernel"][2])
    best = inner.argmax(axis=-1)
    wi, wo = (run.weights[f"{name}/kernel"][:, 2][best] for name in ("wi", "wo"))
    hidden = np.maximum(np.einsum("...m,...mf->...f", x, wi), 0)
    expected = np.einsum("...f,...fn->...n", hidden, wo)
    expected *= (outer * inner.max(axis=-1) * importance)[..., None]
    np.testing.assert_allclose(run.outputs, expected, rtol=2e-5, atol=2e-6)


def block(language):
    """The one block of code of the page in this language."""
    [code] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return code


@pytest.fixture(scope="module")
def my_routers(tmp_path_factory):
    """The module of the page; gin takes its name once."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_routers.py").write_text(block("python"), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        import my_routers  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    return my_routers


def run_of(router, train):
    moe = hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(name="outer", num_experts=3, router=router, group_size=4, min_capacity=1),
            hmoe.Level(name="inner", num_experts=2, router=hmoe.TopKRouter(k=1), group_size=8),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11),
    )
    return run_layer(moe, seeded.tokens_of(DIMS), DIMS, train=train)


def test_router_of_the_page_is_top_k_but_for_its_noise(my_routers):
    settings = {"k": 2, "weight_norm": 1.0}
    plain = hmoe.TopKRouter(policy_train="all", **settings)
    for train in (False, True):
        mine, theirs = run_of(my_routers.NoisyRouter(**settings), train), run_of(plain, train)
        assert np.abs(mine.gradients["outer_gating/kernel"]).max() > 1e-3
        if train:
            assert np.abs(mine.outputs - theirs.outputs).max() > 0.01
        else:
            tolerances.assert_close(mine.outputs, theirs.outputs, tolerances.SAME)


def test_gin_file_of_the_page(my_routers):
    """Its command imports the module, and so has the fixture."""
    with configs.parsed([], [block("gin")]):
        outer, inner = configurables.MoELayer().moe.levels
    assert isinstance(outer.router, my_routers.NoisyRouter)
    assert (outer.router.k, outer.router.bias_update_rate) == (2, 0.001)
    assert isinstance(inner.router, hmoe.TopKRouter)
    assert "--module_import=my_routers --gin_file=my_run.gin" in PAGE.read_text(encoding="utf-8")
