"""A user's own router: one method to write, and the layer as it is."""
from __future__ import annotations

import numpy as np

import hmoe
from tests import helpers
from tests.helpers import mtf, tf

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 4), ("d_model", 7))


class LastExpertRouter(hmoe.Router):
    """Sends every token that is not padding to the expert of the highest number."""

    def choose(self, scores, importance, context):
        choice = mtf.Dimension("choice", 1)
        shape = mtf.Shape(importance.shape.dims + [choice])
        last = scores.experts_dim.size - 1
        expert = mtf.zeros(importance.mesh, shape, dtype=tf.int32) + last
        asked = mtf.reshape(mtf.cast(mtf.greater(importance, 0.0), tf.float32), shape)
        one_hot = mtf.one_hot(expert, scores.experts_dim, dtype=tf.float32)
        weight = mtf.einsum([scores.probabilities, one_hot], shape) * asked
        rank = mtf.zeros(importance.mesh, shape, dtype=tf.int32)
        return hmoe.Choices(expert, weight, rank, asked, asked, scores.tokens_dim, choice,
                            scores.experts_dim)


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
