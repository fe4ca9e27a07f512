"""What stands in padding, and how much of it there is, changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import hmoe
from hmoe.compat.stack import mtf, tf
from hmoe.layer import metrics
from tests import graphs, meshes, seeded, tolerances
from tests.run_layer import run_layer

pytestmark = pytest.mark.usefixtures("mesh_engine")

DIMS = (("outer_batch", 2), ("batch", 4), ("length", 6), ("d_model", 7))


ROUTERS = {
    "top-2": lambda: hmoe.TopKRouter(k=2, policy_train="random"),
    "top-3-sigmoid": lambda: hmoe.TopKRouter(
        k=3, policy_train="all", gate=hmoe.Gate(function="sigmoid", use_bias=True)
    ),
    "switch": lambda: hmoe.SwitchRouter(
        selection_train="sample", retries=1, gate=hmoe.Gate(jitter=0.1, input_dropout=0.1)
    ),
    "words": lambda: hmoe.TopKRouter(
        k=2, policy_train="all", priority=True, gate=hmoe.Gate(word_embeddings="concat")
    ),
    "experts-choose": lambda: hmoe.ExpertChoiceRouter(),
    "experts-choose-over-tokens": lambda: hmoe.ExpertChoiceRouter(softmax_over="tokens"),
}
GARBAGE = {"nan": np.nan, "infinity": -np.inf, "large": 1e20}


def layer(router, experts=(3, 5), shared=True, **level):
    settings = dict({"group_size": 12, "min_capacity": 1, "z_loss_coef": 0.01}, **level)
    names = ("outer", "inner") if len(experts) > 1 else ("only",)
    return lambda **more: hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(name=name, num_experts=number, router=router(), **settings)
            for name, number in zip(names, experts)
        ],
        experts=hmoe.FeedForwardExperts(
            hidden_size=11, activation=["gelu", "linear"], use_bias=True
        ),
        shared_expert=hmoe.SharedExpert(hidden_size=9) if shared else None,
        **more,
    )


def with_garbage(values, importance, garbage):
    values = values.copy()
    values[importance == 0] = garbage
    return values


@pytest.mark.parametrize("engine", ["index", "einsum"])
@pytest.mark.parametrize(
    ("name", "garbage"),
    [(name, list(GARBAGE)[number % len(GARBAGE)]) for number, name in enumerate(ROUTERS)],
)
def test_garbage_in_padding_reaches_nothing(name, garbage, engine):
    importance = seeded.importance_of(DIMS)
    # The first token stands in for whoever is missing, where rows are gathered.
    importance[0, 0, 0] = 0.0
    build = layer(ROUTERS[name])
    x, words = seeded.tokens_of(DIMS), seeded.tokens_of(DIMS, "words")
    runs = []
    for value in (0.0, GARBAGE[garbage]):
        moe = build(engine=engine)
        runs.append(
            run_layer(
                moe,
                with_garbage(x, importance, value),
                DIMS,
                importance=importance,
                output_size=5,
                embeddings=with_garbage(words, importance, value) if moe.uses_embeddings else None,
            )
        )
    clean, dirty = runs
    np.testing.assert_array_equal(dirty.outputs, clean.outputs)
    assert not dirty.outputs[importance == 0].any()
    assert dirty.loss == clean.loss
    for kind in ("gradients", "losses", "sums"):
        mine, its = getattr(dirty, kind), getattr(clean, kind)
        assert sorted(mine) == sorted(its)
        for key in its:
            np.testing.assert_array_equal(mine[key], its[key], err_msg=f"{kind} {key}")
            assert np.isfinite(mine[key]).all(), key
    assert not dirty.gradients["inputs"][importance == 0].any()


@pytest.mark.parametrize("engine", ["index", "einsum"])
def test_garbage_in_the_gradient_of_padding_reaches_nothing(engine):
    """As from a loss that forgets to mask."""
    importance = seeded.importance_of(DIMS)
    with tf.Graph().as_default():
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = graphs.mtf_dims(DIMS)
        x = graphs.constant(mesh, seeded.tokens_of(DIMS), dims)
        result = layer(ROUTERS["top-2"])(engine=engine)(
            x,
            mtf.Dimension("d_out", 5),
            train=True,
            importance=graphs.constant(mesh, importance, dims[:-1]),
        )
        direction = np.ones(result.outputs.shape.to_integer_list, np.float32)
        direction[importance == 0] = np.nan
        objective = mtf.reduce_sum(
            result.outputs * graphs.constant(mesh, direction, result.outputs.shape.dims)
        )
        variables = mesh.graph.trainable_variables
        gradients = mtf.gradients([objective], [v.outputs[0] for v in variables] + [x])
        lowering = meshes.lower(mesh)
        with graphs.quick_session() as session:
            fetched = [lowering.export_to_tf_tensor(each) for each in gradients]
            session.run(tf.global_variables_initializer())
            graphs.load_weights(session, lowering)
            found = session.run(fetched)
    for variable, gradient in zip([*variables, "inputs"], found):
        assert np.isfinite(gradient).all(), variable
        assert np.abs(gradient).max() > 1e-3


# Where only groups of padding are added, or one group has room for all.
ALONE = (("outer_batch", 1), ("batch", 2), ("length", 4), ("d_model", 7))
BESIDE = {
    "more examples": (("outer_batch", 1), ("batch", 6), ("length", 4), ("d_model", 7)),
    "longer ones": (("outer_batch", 1), ("batch", 2), ("length", 12), ("d_model", 7)),
}
POOLS = [
    ("top-3-sigmoid", "group", "first"),
    ("top-3-sigmoid", "batch", "all"),
    ("top-3-sigmoid", "example", "first"),
    ("experts-choose-over-tokens", "group", "first"),
]


def named(router, dims, x, importance, train, group_size, over, choices):
    no_loss = isinstance(router(), hmoe.ExpertChoiceRouter)
    more = {} if no_loss else {"balance_loss_over": over, "balance_loss_choices": choices}
    moe = layer(
        router,
        shared=False,
        group_size=group_size,
        capacity_factor_train=5.0,
        capacity_factor_eval=5.0,
        second_place_loss=router().has_second_choice,
        **more,
    )
    run = run_layer(
        moe(metrics="full"),
        x,
        dims,
        importance=importance,
        train=train,
        gradients=False,
        output_size=5,
    )
    return run, metrics.summarize({"layer": run.sums})


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "over", "choices"), POOLS)
@pytest.mark.parametrize("added", BESIDE)
def test_padding_changes_no_loss_and_no_metric(name, added, over, choices, train):
    router = ROUTERS[name]
    x = seeded.tokens_of(ALONE)
    importance = np.ones(x.shape[:-1], np.float32)
    importance[0, 1, 2] = 0.5
    dims = BESIDE[added]
    padded = np.full([size for _, size in dims], np.nan, np.float32)
    mask = np.zeros(padded.shape[:-1], np.float32)
    padded[:, :2, :4], mask[:, :2, :4] = x, importance
    # One group, or groups of padding alone beside it.
    size = 8 if added == "more examples" else 24
    one, alone = named(router, ALONE, x, importance, train, 8, over, choices)
    two, beside = named(router, dims, padded, mask, train, size, over, choices)
    tolerances.assert_close(two.outputs[:, :2, :4], one.outputs, tolerances.SAME)
    tolerances.assert_close(two.loss, one.loss, tolerances.SAME)
    assert sorted(alone) == sorted(beside)
    for key, value in alone.items():
        if "expert_usage" in key and added == "longer ones":
            continue  # Slots come with the places of a group, and more of them are empty.
        tolerances.assert_close(beside[key], value, tolerances.SAME, key)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("over", ["group", "batch", "example"])
def test_1_is_even_at_every_level(over, train):
    """With padding, partial tokens and empty slots; probabilities are all alike."""
    moe = layer(
        lambda: hmoe.TopKRouter(k=2, policy_train="all"),
        balance_loss_over=over,
        capacity_factor_train=3.0,
        capacity_factor_eval=3.0,
    )
    run = run_layer(
        moe(),
        seeded.tokens_of(DIMS),
        DIMS,
        importance=seeded.importance_of(DIMS),
        train=train,
        gradients=False,
        values=lambda name, shape: np.zeros(shape, np.float32),
    )
    values = metrics.summarize({"layer": run.sums})
    for level in ("outer", "inner"):
        assert values[f"layer/{level}/auxiliary_loss"] == pytest.approx(1.0, rel=1e-5)
    assert values["layer/inner/expert_usage"] < 0.5
    assert run.losses["inner/balance"] == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("over", ["group", "batch"])
def test_over_positions_it_is_smaller_by_the_square_of_the_share_of_tokens(over):
    """Upstream's denominators: 12 positions of a group, of which 9 hold a full token."""
    importance = np.ones([2, 4, 6], np.float32)
    importance.reshape(4, 12)[:, ::4] = 0.0
    losses = {}
    for mean_over in ("tokens", "positions"):
        moe = layer(
            lambda: hmoe.TopKRouter(k=2, policy_train="all"),
            experts=(5,),
            balance_loss_over=over,
            balance_loss_mean_over=mean_over,
            second_place_loss=True,
        )
        losses[mean_over] = run_layer(
            moe(), seeded.tokens_of(DIMS), DIMS, importance=importance, gradients=False
        ).losses
    for kind in ("only/balance", "only/second_place"):
        tolerances.assert_close(
            losses["positions"][kind], losses["tokens"][kind] * (9 / 12) ** 2, tolerances.SAME, kind
        )


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.float64])
def test_importance_may_be_of_any_type(dtype):
    importance = seeded.importance_of(DIMS, partial=False)
    moe = layer(ROUTERS["top-2"])()
    runs = [
        run_layer(moe, seeded.tokens_of(DIMS), DIMS, importance=each)
        for each in (importance, importance.astype(dtype))
    ]
    np.testing.assert_array_equal(runs[0].outputs, runs[1].outputs)
    assert runs[0].loss == runs[1].loss
