"""What holds of every router at every level, whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hmoe
from hmoe.compat.stack import tf
from tests import meshes, tolerances
from tests.assignments import FedLayer

# Two groups at the first level, each of two examples.
pytestmark = pytest.mark.usefixtures("mesh_engine")

DIMS = (("batch", 4), ("length", 12), ("d_model", 7))
GROUPS = (2, 24)


# Each makes a new router, since a graph listens to it.
ROUTERS = {
    "top-1": lambda: hmoe.TopKRouter(k=1),
    "top-2": lambda: hmoe.TopKRouter(k=2, policy_train="random", policy_eval="all"),
    "top-3-of-p-norm": lambda: hmoe.TopKRouter(k=3, policy_train="threshold", weight_norm=2.0),
    "retries": lambda: hmoe.TopKRouter(k=2, policy_train="all", retries=1),
    "priority": lambda: hmoe.TopKRouter(k=2, policy_train="all", priority=True),
    "bias": lambda: hmoe.TopKRouter(k=2, policy_train="all", bias_update_rate=0.1),
    "sigmoid": lambda: hmoe.TopKRouter(
        k=2, policy_train="all", gate=hmoe.Gate(function="sigmoid", use_bias=True)
    ),
    "switch": lambda: hmoe.SwitchRouter(
        selection_train="sample", gate=hmoe.Gate(jitter=0.1, input_dropout=0.1)
    ),
    "ntlb": lambda: hmoe.SwitchRouter(retries=2, gate=hmoe.Gate(explore_probability=0.2)),
    "words": lambda: hmoe.TopKRouter(
        k=2, policy_train="all", gate=hmoe.Gate(word_embeddings="concat_stop_grad")
    ),
    "uniform": lambda: hmoe.UniformRouter(k=2, weight_norm=1.0),
    "experts-choose": lambda: hmoe.ExpertChoiceRouter(),
    "experts-choose-over-tokens": lambda: hmoe.ExpertChoiceRouter(softmax_over="tokens"),
}
MOST = {
    "top-1": 1,
    "top-3-of-p-norm": 3,
    "switch": 1,
    "ntlb": 1,
    "experts-choose": 5,
    "experts-choose-over-tokens": 5,
}
# Whose weights, to the power of the norm, add up to one where no choice is lost.
NORM = {
    "top-2": 1,
    "top-3-of-p-norm": 2,
    "retries": 1,
    "priority": 1,
    "bias": 1,
    "sigmoid": 1,
    "words": 1,
    "uniform": 1,
}


def layer(name, **more):
    inner = dict(num_experts=3, group_size=8, min_capacity=1)
    return hmoe.HierarchicalMoE(
        levels=[
            hmoe.Level(
                name="outer",
                num_experts=5,
                router=ROUTERS[name](),
                group_size=24,
                min_capacity=1,
                capacity_factor_train=1.0,
                capacity_factor_eval=1.0,
                balance_loss_coef=0.0,
            ),
            hmoe.Level(name="inner", router=ROUTERS[name](), balance_loss_coef=0.0, **inner),
        ],
        experts=hmoe.FeedForwardExperts(hidden_size=11),
        metrics="off",
        **more,
    )


@meshes.cached
def built(name, train, drop_tokens=True):
    return FedLayer(layer(name), DIMS, train=train, gradients=train, drop_tokens=drop_tokens)


def inputs_of(seed, scale=1.0):
    generator = np.random.RandomState(seed)
    x = generator.randn(*[size for _, size in DIMS]) * scale
    importance = generator.choice([0, 0.25, 0.5, 1], x.shape[:-1], p=[0.2, 0.1, 0.1, 0.6])
    return x.astype(np.float32), importance


def flat(values, trailing):
    """[..., *trailing] -> [groups, *trailing]."""
    return values.reshape((-1,) + values.shape[values.ndim - trailing :])


def check_buffers(level, most):
    """Filled from the front, nobody twice, no padding, nobody at more experts than promised."""
    for importance, buffers in zip(flat(level.importance, 1), flat(level.slot_tokens, 2)):
        reached = np.zeros(len(importance), int)
        for slots in buffers:
            standing = slots[slots >= 0].tolist()
            assert slots[: len(standing)].tolist() == standing
            assert len(set(standing)) == len(standing)
            assert (importance[standing] > 0).all()
            reached[standing] += 1
        assert (reached <= np.where(importance == 1, most, min(most, 5))).all()


def check_choices(level, name):
    """Choices and slots tell the same; weights are as promised."""
    groups = zip(
        flat(level.importance, 1),
        flat(level.slot_tokens, 2),
        flat(level.expert, 2),
        flat(level.kept, 2),
        flat(level.weight, 2),
    )
    for importance, buffers, expert, kept, weight in groups:
        assert kept.sum() == (buffers >= 0).sum()
        for token, (of_token, there) in enumerate(zip(expert, kept > 0)):
            assert sorted(of_token[there]) == np.where((buffers == token).any(axis=1))[0].tolist()
        assert (weight[kept == 0] == 0).all()
        assert (weight >= 0).all()
        assert (weight <= 1 + 1e-6).all()
        if name in NORM:
            norms = (weight ** NORM[name]).sum(axis=-1)
            assert (norms <= 1 + 1e-5).all()
            if name not in ("retries", "top-3-of-p-norm", "uniform"):
                # A retry gives less than what it stands for; experts that are dealt out can
                # have probabilities so small that what keeps the division finite shows.
                whole = (kept.sum(axis=-1) == MOST.get(name, 2)) & (importance == 1)
                tolerances.assert_close(norms[whole], 1, tolerances.SAME)


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_assignments_are_lawful(name, seed, scale):
    outcome = built(name, train=True)(*inputs_of(seed, scale))
    assert len(outcome.levels) == 2
    for level in outcome.levels:
        # Of 24 tokens four have room at each of five experts; then of eight two at three.
        assert level.slot_tokens.shape[-2:] in ((5, 4), (3, 2))
        check_buffers(level, MOST.get(name, 2))
        check_choices(level, name)
    assert np.isfinite(outcome.outputs).all()


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_what_stands_in_padding_changes_nothing(name, seed):
    run = built(name, train=True)
    x, importance = inputs_of(seed)
    first = run(x, importance)
    x[importance == 0] = 1e3
    second = run(x, importance)
    assert (first.outputs[importance == 0] == 0).all()
    np.testing.assert_array_equal(second.outputs, first.outputs)
    for variable, gradient in first.gradients.items():
        tolerances.assert_close(second.gradients[variable], gradient, tolerances.SAME, variable)


@pytest.mark.parametrize("name", ROUTERS)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_gradients_reach_the_weights_of_every_router(name, seed):
    gradients = built(name, train=True)(inputs_of(seed)[0]).gradients
    of_gates = [gradient for variable, gradient in gradients.items() if "gating" in variable]
    assert len(of_gates) == (4 if name == "sigmoid" else 2)
    for gradient in of_gates:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 1e-4


# Whether a token stands first or last matters to none of these: there is room for all, or
# the best are taken. Uniform assignment goes by the place.
ROOM = {name: False for name in ROUTERS if name not in ("uniform", "words")}
ROOM.update({"experts-choose": True, "experts-choose-over-tokens": True, "priority": True})


@pytest.mark.parametrize("name", ROOM)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_permuting_the_tokens_of_a_group_permutes_their_outputs(name, seed):
    run = built(name, train=False, drop_tokens=ROOM[name])
    x, importance = inputs_of(seed)
    if name == "priority":
        # Partial tokens keep their turn among the second choices.
        importance = np.where(importance > 0, 1.0, 0.0)
    order = [np.random.RandomState(seed + g).permutation(GROUPS[1]) for g in range(GROUPS[0])]

    def permuted(values):
        grouped = values.reshape(GROUPS + values.shape[2:])
        return np.stack([g[o] for g, o in zip(grouped, order)]).reshape(values.shape)

    tolerances.assert_close(
        run(permuted(x), permuted(importance)).outputs,
        permuted(run(x, importance).outputs),
        tolerances.SAME,
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("top-2", "sigmoid", "switch", "words", "experts-choose-over-tokens")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in ROUTERS
    ],
)
def test_bfloat16_activations_decide_as_float32_does(name):
    x, importance = inputs_of(3)
    # Sixteenths need seven bits at most.
    x = np.round(x * 16) / 16
    exact = built(name, train=True)(x, importance)
    rounded = FedLayer(layer(name), DIMS, train=True, dtype=tf.bfloat16)(x, importance)
    for level, other in zip(rounded.levels, exact.levels):
        np.testing.assert_array_equal(level.slot_tokens, other.slot_tokens)
        np.testing.assert_array_equal(level.importance, other.importance)
        tolerances.assert_close(level.weight, other.weight, tolerances.SAME)
    tolerances.assert_close(rounded.outputs, exact.outputs, tolerances.BFLOAT16)
