"""A user's own router: one method to write, and the layer as it is."""
from __future__ import annotations

import numpy as np

import hmoe
from tests import helpers
from tests.helpers import mtf, tf

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 4), ("d_model", 7))


class LastExpertRouter(hmoe.TokenChoiceRouter):
    """Sends every token to the expert of the highest number."""

    def rank_experts(self, scores, count, context):
        shape = mtf.Shape(scores.logits.shape.dims[:-1] + [mtf.Dimension("preference", count)])
        last = scores.experts_dim.size - 1
        return mtf.constant(scores.logits.mesh, last, shape, dtype=tf.int32)


def test_layer_works_with_a_router_of_the_users_own():
    moe = hmoe.HierarchicalMoE(
        [hmoe.Level("outer", num_experts=3, router=LastExpertRouter(), group_size=4,
                    capacity_factor_train=3.0),
         hmoe.Level("inner", num_experts=2, router=hmoe.TopKRouter(1), group_size=8,
                    capacity_factor_train=2.0)],
        hmoe.FeedForwardExperts(hidden_size=11))
    x = helpers.tokens_of(DIMS)
    importance = helpers.importance_of(DIMS, partial=False)
    run = helpers.run_layer(moe, x, DIMS, importance=importance)
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
