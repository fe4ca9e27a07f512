"""Hand-written tables of a few tokens and experts; properties of any assignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmoe.compat.stack import mtf, tf
from hmoe.routing.assignment import Choices, fill_buffers
from hmoe.routing.scores import Scores
from hmoe.routing.top_k import TopKRouter
from tests import graphs, meshes
from tests.routing import contexts
from tests.slots import slot_tokens


def evaluate(build):
    """Runs `build(mesh)`, a dict of mtf tensors, on one device."""
    with tf.Graph().as_default():
        graph = mtf.Graph()
        mesh = mtf.Mesh(graph, "mesh")
        tensors = build(mesh)
        lowering = meshes.lower(mesh)
        with graphs.quick_session() as session:
            return session.run({k: lowering.export_to_tf_tensor(t) for k, t in tensors.items()})


def placed(expert, wanted, num_experts, capacity):
    """Places choices given as [tokens][rounds] tables."""
    expert = np.array(expert, np.int32)
    wanted = np.array(wanted, np.float32)
    s, k = (mtf.Dimension(n, z) for n, z in zip(("group_size", "choice"), expert.shape))

    def build(mesh):
        def tensor(values):
            return graphs.constant(mesh, values, [s, k])

        rank = np.broadcast_to(np.arange(k.size, dtype=np.int32), expert.shape)
        choices = Choices(
            expert=tensor(expert),
            weight=tensor(wanted / 2),
            rank=tensor(rank),
            demand=tensor(wanted),
            wanted=tensor(wanted),
            tokens_dim=s,
            choice_dim=k,
            experts_dim=mtf.Dimension("experts_unsplit", num_experts),
        )
        result = fill_buffers(choices, mtf.Dimension("expert_capacity", capacity))
        return {
            "expert": result.expert,
            "position": result.position,
            "kept": result.kept,
            "weight": result.weight,
        }

    table = evaluate(build)
    return {
        **table,
        "slot_tokens": slot_tokens(table["expert"], table["position"], num_experts, capacity),
    }


def test_first_choices_are_placed_before_any_second_one():
    table = placed([[0, 1], [0, 1], [1, 0]], np.ones([3, 2]), num_experts=2, capacity=2)
    # Expert 0 takes the first choices of tokens 0 and 1, expert 1 that of token 2, then
    # the second choice of token 0; nobody else finds room.
    assert table["position"].tolist() == [[0, 1], [1, -1], [0, -1]]
    assert table["kept"].tolist() == [[1, 1], [1, 0], [1, 0]]
    assert table["weight"].tolist() == [[0.5, 0.5], [0.5, 0], [0.5, 0]]
    assert table["slot_tokens"].tolist() == [[0, 1], [2, 0]]


def test_unwanted_choices_take_no_room():
    table = placed(
        [[2, 0], [2, 1], [2, 0], [0, 2]],
        [[1, 0], [0, 1], [1, 1], [1, 1]],
        num_experts=3,
        capacity=2,
    )
    assert table["position"].tolist() == [[0, -1], [-1, 0], [1, 1], [0, -1]]
    assert table["slot_tokens"].tolist() == [[3, 2], [1, -1], [0, 2]]


def test_a_dropped_first_choice_leaves_its_expert_full_for_second_ones():
    table = placed(
        [[0, 1], [0, 1], [0, 1], [1, 0], [1, 0]], np.ones([5, 2]), num_experts=2, capacity=1
    )
    assert table["position"].tolist() == [[0, -1], [-1, -1], [-1, -1], [0, -1], [-1, -1]]
    assert table["slot_tokens"].tolist() == [[0], [3]]


def routed(probabilities, importance, k=2, capacity=2, policy="all", **more):
    """What a router and the placement make of probabilities [S][X]."""
    probabilities = np.array(probabilities, np.float32)
    s = mtf.Dimension("group_size", probabilities.shape[0])
    x = mtf.Dimension("experts_unsplit", probabilities.shape[1])
    router = TopKRouter(k=k, policy_train=policy, **more)

    def build(mesh):
        tensor = graphs.constant(mesh, probabilities, [s, x])
        scores = Scores(mtf.log(tensor), tensor, tensor, s, x)
        given = graphs.constant(mesh, np.array(importance, np.float32), [s])
        result = router.assign(scores, given, contexts.context_for(x, capacity))
        return {
            "expert": result.choices.expert,
            "rank": result.choices.rank,
            "demand": result.choices.demand,
            "wanted": result.choices.wanted,
            "weight": result.choices.weight,
            "position": result.position,
            "went": result.expert,
        }

    table = evaluate(build)
    return {**table, "slot_tokens": slot_tokens(table["went"], table["position"], x.size, capacity)}


def test_partial_tokens_wait_for_all_first_choices():
    table = routed([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4]], [0.5, 1, 1])
    # Token 0 is partial: its best expert has been filled by the first choices of 1 and 2.
    assert table["slot_tokens"].tolist() == [[1, 2], [1, -1], [2, -1]]
    assert table["demand"].tolist() == [[0, 1], [1, 1], [1, 1]]
    assert table["rank"][0].tolist() == [0, 0]
    np.testing.assert_allclose(table["weight"][0], [0, 1], rtol=1e-6)


def test_padding_is_nowhere():
    table = routed([[0.7, 0.3], [0.7, 0.3], [0.7, 0.3]], [0, 1, 0])
    assert table["slot_tokens"].tolist() == [[1, -1], [1, -1]]
    assert table["demand"].sum(axis=1).tolist() == [0, 2, 0]


def test_ties_go_to_the_expert_of_lower_number():
    table = routed([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4]], [1, 1], k=3)
    assert table["expert"].tolist() == [[0, 1, 2], [1, 3, 0]]


def test_experts_of_probability_zero_can_still_be_chosen_once():
    table = routed([[1.0, 0.0, 0.0]], [1], k=3)
    assert table["expert"].tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(table["weight"], [[1, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("policy", "threshold", "wanted"),
    [
        ("all", 0.9, [[1, 1], [1, 1], [0, 1]]),
        ("none", 0.9, [[1, 0], [1, 0], [0, 1]]),
        # Above all weights of first choices: those are used all the same.
        ("threshold", 0.95, [[1, 0], [1, 0], [0, 1]]),
        ("threshold", 0.3, [[1, 0], [1, 1], [0, 1]]),
        ("random", 1e9, [[1, 0], [1, 0], [0, 1]]),
        ("random", 1e-9, [[1, 1], [1, 1], [0, 1]]),
    ],
)
def test_policies_concern_later_choices_of_full_tokens_alone(policy, threshold, wanted):
    table = routed(
        [[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]], [1, 1, 0.5], policy=policy, threshold_train=threshold
    )
    assert table["wanted"].tolist() == wanted
    np.testing.assert_allclose(table["weight"], [[0.8, 0.2], [0.6, 0.4], [0, 1]], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from(["all", "none", "threshold", "random"]),
    st.sampled_from([1.0, 2.0]),
)
def test_properties_of_any_assignment(seed, k, capacity, policy, norm):
    generator = np.random.RandomState(seed)
    tokens, experts = 7, 4
    probabilities = generator.dirichlet(np.ones(experts), tokens)
    importance = generator.choice([0, 0.25, 0.5, 1], tokens, p=[0.2, 0.1, 0.2, 0.5])
    table = routed(
        probabilities, importance, k=k, capacity=capacity, policy=policy, weight_norm=norm
    )
    for slots in table["slot_tokens"]:
        standing = slots[slots >= 0].tolist()
        # Filled from the front, nobody twice, no padding.
        assert slots[: len(standing)].tolist() == standing
        assert len(set(standing)) == len(standing)
        assert all(importance[t] > 0 for t in standing)
    reached = [(table["slot_tokens"] == t).any(axis=1).sum() for t in range(tokens)]
    for t in range(tokens):
        assert reached[t] <= (k if importance[t] == 1 else 1)
    kept = table["weight"] * (table["position"] >= 0)
    power = kept ** (norm if k > 1 else 1.0)
    assert (power.sum(axis=1) <= 1 + 1e-5).all()
    assert (table["weight"][importance == 0] == 0).all()
