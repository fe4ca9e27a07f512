"""The layer as a whole: padding, identities, microbatches, types, parameters."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.layer import metrics
from hmoe.mesh import randomness
from tests import graphs, meshes, seeded, tolerances
from tests.run_layer import run_layer, run_layer_each

DIMS = (("outer_batch", 2), ("batch", 3), ("length", 12), ("d_model", 7))


def level(name, num_experts, k=2, **more):
    settings = dict(group_size=12, min_capacity=1, capacity_factor_train=1.0)
    return hmoe.Level(
        name=name,
        num_experts=num_experts,
        router=hmoe.TopKRouter(k=k, policy_train="all"),
        **dict(settings, **more),
    )


def layer(*levels, **more):
    return hmoe.HierarchicalMoE(
        levels=levels, experts=more.pop("experts", hmoe.FeedForwardExperts(hidden_size=11)), **more
    )


def two(**more):
    losses = dict(z_loss_coef=0.1, balance_loss_coef=0.3, second_place_loss=True)
    return layer(level("outer", 3, **losses), level("inner", 5, **losses), **more)


def assert_equal(run, other, skip=()):
    tolerances.assert_close(run.loss, other.loss, tolerances.SAME)
    for kind in ("sums", "gradients"):
        mine, its = getattr(run, kind), getattr(other, kind)
        assert sorted(mine) == sorted(its)
        for key in set(its) - set(skip):
            tolerances.assert_close(mine[key], its[key], tolerances.SAME, f"{kind} {key}")


@pytest.mark.parametrize(
    "shared", [None, hmoe.SharedExpert(hidden_size=13, use_bias=True)], ids=["alone", "shared"]
)
def test_what_stands_in_padding_changes_nothing(shared):
    importance = seeded.importance_of(DIMS)
    importance[1, 2] = 0.0  # a whole group
    padding = importance == 0
    x = seeded.tokens_of(DIMS)
    filled = [
        np.where(padding[..., None], content * (1 + np.abs(x)), x).astype(np.float32)
        for content in (0.0, 1e4)
    ]
    run, *others = run_layer_each(
        two(shared_expert=shared), [x, *filled], DIMS, importance=importance
    )
    for other in others:
        np.testing.assert_array_equal(run.outputs[~padding], other.outputs[~padding])
        assert_equal(run, other)
    assert (run.outputs[padding] == 0).all()
    assert (run.gradients["inputs"][padding] == 0).all()


@pytest.mark.parametrize("k", [1, 2])
def test_everything_padding_is_zero_and_finite(k):
    moe = layer(level("outer", 3, k, z_loss_coef=1.0), level("inner", 5, k, z_loss_coef=1.0))
    run = run_layer(moe, seeded.tokens_of(DIMS), DIMS, importance=np.zeros((2, 3, 12), np.float32))
    assert run.loss == 0
    assert (run.outputs == 0).all()
    assert all((gradient == 0).all() for gradient in run.gradients.values())
    named = metrics.summarize({"layer": run.sums})
    assert np.isfinite(list(named.values())).all()


def test_padding_that_forms_whole_groups_leaves_the_other_outputs():
    """One level, groups of an example: examples of padding change no other output."""
    moe = layer(level("only", 5))
    x = seeded.tokens_of(DIMS)
    importance = np.ones((2, 3, 12), np.float32)
    importance[:, 2] = 0
    run = run_layer(moe, x, DIMS, importance=importance)
    fewer = (DIMS[0], ("batch", 2), *DIMS[2:])
    other = run_layer(moe, x[:, :2], fewer, importance=importance[:, :2])
    tolerances.assert_close(run.outputs[:, :2], other.outputs, tolerances.SAME)


def test_importance_of_some_dimensions_holds_for_all():
    x = seeded.tokens_of(DIMS)
    by_outer = np.array([1.0, 0.0], np.float32)
    whole = np.broadcast_to(by_outer[:, None, None], (2, 3, 12)).astype(np.float32)
    some, all_of = (
        run_layer(two(), x, DIMS, importance=given, gradients=False) for given in (by_outer, whole)
    )
    np.testing.assert_array_equal(some.outputs, all_of.outputs)
    assert some.loss == all_of.loss


ROOM = dict(capacity_factor_train=100.0)


@pytest.mark.parametrize("where", [0, 1], ids=["outer", "inner"])
def test_a_level_of_one_expert_is_the_identity_of_that_level(where):
    sizes = [1, 5] if where == 0 else [5, 1]
    twofold = layer(level("outer", sizes[0], **ROOM), level("inner", sizes[1], **ROOM))
    flat = layer(level("only", 5, **ROOM))
    x = seeded.tokens_of(DIMS)
    names = {
        "outer_gating/kernel": "top_2_gating/kernel",
        "inner_gating/kernel": "top_2_gating/kernel",
    }

    def values(name, shape):
        kept = [size for size in shape if size > 1]
        return seeded.weights_of(names.get(name, name), kept).reshape(shape)

    both = [
        run_layer(twofold, x, DIMS, values=values),
        run_layer(flat, x, DIMS, values=values),
    ]
    tolerances.assert_close(both[0].outputs, both[1].outputs, tolerances.SAME)
    # The balance losses of the two differ, so gradients of the gating do.
    for name in ("wi/kernel", "wo/kernel"):
        gradient = both[1].gradients[name]
        tolerances.assert_close(
            both[0].gradients[name].reshape(gradient.shape), gradient, tolerances.SAME, name
        )


def test_one_expert_at_every_level_is_the_dense_layer():
    x = seeded.tokens_of(DIMS)
    for levels in (
        [level("only", 1, **ROOM)],
        [level("outer", 1, **ROOM), level("inner", 1, **ROOM)],
        [level("a", 1, **ROOM), level("b", 1, 1, **ROOM), level("c", 1, **ROOM)],
    ):
        run = run_layer(layer(*levels), x, DIMS, gradients=False)
        wi, wo = (
            run.weights[f"{n}/kernel"].reshape(s) for n, s in (("wi", (7, 11)), ("wo", (11, 13)))
        )
        tolerances.assert_close(run.outputs, np.maximum(x @ wi, 0) @ wo, tolerances.ORACLE)


def serialized(moe, x, importance, num, direction):
    """Gradients, outputs and sums of a step in microbatches, as T5 makes them."""
    with tf.Graph().as_default():
        graphs.read_variables_once()
        tf.train.create_global_step()
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        dims = graphs.mtf_dims(DIMS)
        number = np.arange(DIMS[1][1]) % num
        features = {
            "x": graphs.constant(mesh, x, dims),
            "importance": graphs.constant(mesh, importance, dims[:-1]),
            "direction": graphs.constant(mesh, direction, dims[:-1] + [mtf.Dimension("d_out", 13)]),
            "number": graphs.constant(mesh, number.astype(np.int32), dims[1:2]),
        }

        def model(given):
            microbatch = mtf.cast(mtf.reduce_max(given["number"]), tf.int32)
            with randomness.microbatch(microbatch):
                result = moe(
                    given["x"],
                    mtf.Dimension("d_out", 13),
                    train=True,
                    importance=given["importance"],
                    num_microbatches=num,
                )
            loss = result.loss + mtf.reduce_sum(result.outputs * given["direction"])
            sums = {f"sums {key}": value for key, value in result.metrics.items()}
            return {"loss": loss, "outputs": result.outputs, **sums}

        gradients, outputs = mtf.serialize_training_step(features, model, dims[1], num)
        outputs["layer loss"] = outputs.pop("loss")
        wanted = {
            "gradients": dict(zip([v.name for v in graph.trainable_variables], gradients)),
            **outputs,
        }
        lowering = meshes.lower(mesh)
        fetched = tf.nest.map_structure(lowering.export_to_tf_tensor, wanted)
        with graphs.quick_session() as session:
            session.run(tf.global_variables_initializer())
            graphs.load_weights(session, lowering)
            return session.run(fetched)


def test_microbatches_are_the_sum_over_the_layers_of_each():
    importance = seeded.importance_of(DIMS)
    x = seeded.tokens_of(DIMS)
    direction = seeded.direction_of([2, 1, 12, 13])
    got = serialized(two(), x, importance, 3, np.repeat(direction, 3, axis=1))
    each = [
        run_layer(
            two(),
            x[:, i::3],
            (DIMS[0], ("batch", 1), *DIMS[2:]),
            importance=importance[:, i::3],
            num_microbatches=3,
        )
        for i in range(3)
    ]
    for name, gradient in got["gradients"].items():
        tolerances.assert_close(
            gradient, sum(run.gradients[name] for run in each), tolerances.SAME, name
        )
    for key in each[0].sums:
        tolerances.assert_close(
            got[f"sums {key}"], sum(run.sums[key] for run in each), tolerances.SAME, key
        )
    tolerances.assert_close(
        got["outputs"], np.concatenate([run.outputs for run in each], axis=1), tolerances.SAME
    )
    # The losses of three microbatches are each divided by three.
    one = run_layer(
        two(),
        x[:, :1],
        (DIMS[0], ("batch", 1), *DIMS[2:]),
        importance=importance[:, :1],
        gradients=False,
    )
    tolerances.assert_close(one.loss, 3 * each[0].loss, tolerances.SAME)


def test_microbatches_equal_the_batch_where_no_group_spans_examples_and_nothing_overflows():
    moe = layer(level("outer", 3, **ROOM), level("inner", 5, balance_loss_coef=0.0, **ROOM))
    x = seeded.tokens_of(DIMS)
    importance = np.ones((2, 3, 12), np.float32)
    direction = seeded.direction_of([2, 3, 12, 13])
    got = serialized(moe, x, importance, 3, direction)
    whole = run_layer(moe, x, DIMS, importance=importance)
    tolerances.assert_close(got["outputs"], whole.outputs, tolerances.SAME)
    for name, gradient in got["gradients"].items():
        tolerances.assert_close(gradient, whole.gradients[name], tolerances.SAME, name)
    for key in ("outer/load", "inner/load", "outer/tokens"):
        tolerances.assert_close(got[f"sums {key}"], whole.sums[key], tolerances.SAME, key)


def test_routing_and_losses_are_float32_under_bfloat16():
    x = seeded.tokens_of(DIMS).astype(tf.bfloat16.as_numpy_dtype).astype(np.float32)
    importance = seeded.importance_of(DIMS)
    run = run_layer(two(), x, DIMS, importance=importance, dtype=tf.bfloat16)
    exact = run_layer(two(), x, DIMS, importance=importance)
    types = {tensor.name: tensor.dtype for op in run.graph.operations for tensor in op.outputs}
    assert types["outer_gating/einsum:0"] == tf.float32
    assert types["inner_gating/einsum:0"] == tf.float32
    assert types["wi/einsum:0"] == tf.bfloat16
    # The inputs are the same numbers and gating weights are read in float32: routing of
    # the first level, its losses and its sums are those of float32, to rounding.
    for key in ("outer/losses", "outer/tokens", "outer/load"):
        tolerances.assert_close(run.sums[key], exact.sums[key], tolerances.SAME, key)
    assert all(value.dtype == np.float32 for value in run.losses.values())
    assert all(value.dtype == np.float32 for value in run.sums.values())
    scale = np.abs(exact.outputs).max()
    tolerances.assert_close(run.outputs / scale, exact.outputs / scale, tolerances.BFLOAT16)
    assert np.abs(run.outputs - exact.outputs).max() > 1e-4


GATED = hmoe.FeedForwardExperts(hidden_size=11, activation=["gelu", "linear"], use_bias=True)


@pytest.mark.parametrize(
    "moe",
    [
        layer(level("only", 5, 1)),
        two(),
        two(experts=GATED),
        two(shared_expert=hmoe.SharedExpert(hidden_size=17, use_bias=True)),
        layer(level("a", 2), level("b", 3), level("c", 5)),
    ],
    ids=["one", "two", "gated", "shared", "three"],
)
def test_num_params_is_that_of_the_variables(moe):
    run = run_layer(moe, seeded.tokens_of(DIMS), DIMS, gradients=False)
    assert moe.num_params(7, 13) == sum(weights.size for weights in run.weights.values())


@pytest.mark.parametrize(
    ("moe", "expected"),
    [
        # One gating of 7 x 5; one expert of 7 x 11 + 11 x 13.
        (layer(level("only", 5, 1)), 35 + 220),
        # Three choices of four experts; k above the number of experts is clamped to it.
        (layer(level("only", 4, 3)), 28 + 3 * 220),
        (layer(level("only", 2, 3)), 14 + 2 * 220),
        # A first and a second destination, with a gating each; three experts.
        (two(), 7 * 3 + 2 * 7 * 5 + 3 * 220),
        # Gated with biases: 2 x (7 x 11 + 11) + 11 x 13 + 13.
        (two(experts=GATED), 7 * 3 + 2 * 7 * 5 + 3 * 332),
        (two(shared_expert=hmoe.SharedExpert(hidden_size=17)), 7 * 3 + 2 * 7 * 5 + 3 * 220 + 340),
        (layer(level("a", 2), level("b", 3), level("c", 5)), 14 + 2 * 21 + 3 * 35 + 4 * 220),
    ],
)
def test_num_active_params_by_hand(moe, expected):
    assert moe.num_active_params(7, 13) == expected


def test_answers_do_not_depend_on_neighbours_where_no_token_is_dropped():
    x = seeded.tokens_of(DIMS)
    run = run_layer(two(), x, DIMS, train=False, drop_tokens=False, gradients=False)
    alone = run_layer(
        two(),
        x[:1, 1:2],
        (("outer_batch", 1), ("batch", 1), *DIMS[2:]),
        train=False,
        drop_tokens=False,
        gradients=False,
    )
    tolerances.assert_close(run.outputs[:1, 1:2], alone.outputs, tolerances.SAME)
    named = metrics.summarize({"layer": run.sums})
    assert named["experts/fraction_tokens_left_behind"] == 0


def test_random_policy_and_dropout_draw_other_numbers_in_each_microbatch():
    router = hmoe.TopKRouter(k=2, policy_train="random", threshold_train=0.8)
    moe = layer(
        level("outer", 3),
        hmoe.Level(name="inner", num_experts=5, router=router, group_size=12, min_capacity=1),
        experts=hmoe.FeedForwardExperts(hidden_size=11, dropout_rate=0.3),
    )
    x = seeded.tokens_of(DIMS)
    x[:, 1] = x[:, 0]  # two microbatches of the same tokens
    ones = np.ones((2, 3, 12), np.float32)
    direction = np.ones((2, 3, 12, 13), np.float32)
    got = serialized(moe, x, ones, 3, direction)
    assert np.abs(got["outputs"][:, 0] - got["outputs"][:, 1]).max() > 0.1
    np.testing.assert_array_equal(got["outputs"], serialized(moe, x, ones, 3, direction)["outputs"])


def test_random_policy_draws_other_numbers_at_each_step():
    router = hmoe.TopKRouter(k=2, policy_train="random", threshold_train=0.8)
    moe = layer(
        hmoe.Level(name="only", num_experts=5, router=router, group_size=12, min_capacity=1)
    )
    x = seeded.tokens_of(DIMS)
    runs = [
        run_layer(moe, x, DIMS, gradients=False, global_step=step).outputs for step in (0, 1, 1)
    ]
    assert np.abs(runs[0] - runs[1]).max() > 0.1
    np.testing.assert_array_equal(runs[1], runs[2])
