"""The tree of experts, on tables made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.analysis.traces import Category
from hmoe.analysis.tree import Node, tree, typicality

from . import made_traces
from .made_traces import LAYER

EXPERTS = np.array([[[[0, 2], [1, 0], [1, 1]]], [[[1, 2], [0, 0], [1, 2]]]])
TOKENS = np.array([[7, 8, 9], [9, 7, 9]])


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def test_shares_of_each_expert() -> None:
    trace = made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"], TOKENS)
    found = tree(trace, LAYER, "language")
    assert found.labels == ("de", "el")
    assert found.root.path == ()
    assert found.root.tokens == ()
    expected = {
        (): (6, [1 / 2, 1 / 2]),
        (0,): (2, [1 / 2, 1 / 2]),
        (0, 0): (1, [1, 0]),
        (0, 1): (0, [0, 0]),
        (0, 2): (1, [0, 1]),
        (1,): (4, [1 / 2, 1 / 2]),
        (1, 0): (1, [0, 1]),
        (1, 1): (1, [0, 1]),
        (1, 2): (2, [1, 0]),
    }
    assert [node.path for node in nodes(found.root)] == list(expected)
    for node in nodes(found.root):
        count, shares = expected[node.path]
        assert node.count == count
        assert node.share == pytest.approx(count / 6)
        np.testing.assert_allclose(node.label_shares, shares)


def test_typical_tokens_by_the_formula() -> None:
    trace = made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"], TOKENS)
    outer = tree(trace, LAYER, min_count=1).root.children
    # Group 0 has 7 twice; group 1 has 8 once and 9 three times. Prior: 3 tokens by their share.
    sevens, nines, eights = 2 / 6 * 3, 3 / 6 * 3, 1 / 6 * 3
    seven = math.log((2 + sevens) / (2 + 3 - 2 - sevens)) - math.log(sevens / (4 + 3 - sevens))
    seven /= math.sqrt(1 / (2 + sevens) + 1 / sevens)
    assert [(each.token, each.piece, each.count) for each in outer[0].tokens] == [(7, "p7", 2)]
    assert outer[0].tokens[0].score == pytest.approx(seven)
    nine = math.log((3 + nines) / (4 + 3 - 3 - nines)) - math.log(nines / (2 + 3 - nines))
    nine /= math.sqrt(1 / (3 + nines) + 1 / nines)
    eight = math.log((1 + eights) / (4 + 3 - 1 - eights)) - math.log(eights / (2 + 3 - eights))
    eight /= math.sqrt(1 / (1 + eights) + 1 / eights)
    assert [each.token for each in outer[1].tokens] == [9, 8]
    assert [each.score for each in outer[1].tokens] == pytest.approx([nine, eight])


def test_few_and_frequent_tokens() -> None:
    trace = made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"], TOKENS)
    assert [each.token for each in tree(trace, LAYER).root.children[1].tokens] == [9]
    one = tree(trace, LAYER, min_count=1, num_tokens=1).root.children[1]
    assert [each.token for each in one.tokens] == [9]


def test_pieces_are_those_of_the_layer() -> None:
    """Inputs and targets may have vocabularies of their own."""
    both = np.concatenate([EXPERTS, EXPERTS], axis=1)
    trace = made_traces.of_experts(both, (2, 3), ["el", "de"], TOKENS, layers=("a", "b"))
    piece = trace.categories["piece"]
    codes = piece.codes + 3 * trace.rows_of("b").astype(np.int32)
    trace.categories["piece"] = Category(codes, (*piece.names, "x", "y", "z"))
    for layer, expected in (("a", ["p9", "p8"]), ("b", ["z", "y"])):
        found = tree(trace, layer, min_count=1).root.children[1].tokens
        assert [each.piece for each in found] == expected


def test_tokens_of_one_leaf_are_its_typical_ones() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(0, 30, (20, 15))
    experts = np.stack([tokens % 2, tokens // 2 % 3], axis=-1)[:, None]
    trace = made_traces.of_experts(experts, (2, 3), ["de"] * 20, tokens)
    for node in nodes(tree(trace, LAYER).root):
        if len(node.path) == 2:
            assert len(node.tokens) == 5
            assert {each.token % 2 for each in node.tokens} == {node.path[0]}
            assert {each.token // 2 % 3 for each in node.tokens} == {node.path[1]}


@pytest.mark.parametrize("leaves", [(4,), (2, 3, 4)], ids=["one", "three"])
def test_other_numbers_of_levels(leaves: tuple[int, ...]) -> None:
    trace = made_traces.trace(num_examples=6, length=7, leaves=leaves, seed=0)
    root = tree(trace, LAYER, "language").root
    ends = [node for node in nodes(root) if not node.children]
    assert len(ends) == math.prod(leaves)
    assert {len(node.path) for node in ends} == {len(leaves)}
    for node in nodes(root):
        if node.children:
            assert sum(child.count for child in node.children) == node.count
            weighted = sum(child.count * child.label_shares for child in node.children)
            np.testing.assert_allclose(weighted, node.count * node.label_shares, atol=1e-12)


def test_nothing_and_one_token() -> None:
    trace = made_traces.of_experts(EXPERTS[:0], (2, 3), ["de"])
    root = tree(trace, LAYER, "language").root
    assert (root.count, root.share, root.children[1].tokens) == (0, 0, ())
    np.testing.assert_array_equal(typicality(np.array([[3, 0], [1, 0]])), np.zeros((2, 2)))


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=2).filter(
        lambda rows: sum(one + two > 0 for one, two in zip(*rows)) > 1
    )
)
def test_what_is_typical_of_one_of_two_is_not_of_the_other(rows: list[list[int]]) -> None:
    scores = typicality(np.array(rows))
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[0], -scores[1], atol=1e-9)
    absent = np.array(rows).sum(axis=0) == 0
    assert (scores[:, absent] == 0).all()
