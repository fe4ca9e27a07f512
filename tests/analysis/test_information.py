"""The information of labels and experts on routings whose answer is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hmoe.analysis import information, permutations
from hmoe.analysis.routed import routed
from hmoe.analysis.traces import Trace

from . import made_traces
from .made_traces import LAYER

LABELS = ("de", "el", "fi", "he")


def made(
    experts: np.ndarray,
    leaves: tuple[int, ...],
    labels: np.ndarray,
    tokens: np.ndarray | None = None,
) -> Trace:
    """Returns a trace of experts [examples, positions, levels] and the number of each's label."""
    return made_traces.of_experts(
        experts[:, None], leaves, [LABELS[number] for number in labels], tokens
    )


def random_experts(
    random: np.random.Generator, examples: int, length: int, leaves: tuple[int, ...]
) -> np.ndarray:
    return np.stack([random.integers(0, size, (examples, length)) for size in leaves], axis=-1)


def bits(pairs: list[tuple]) -> float:
    """Returns I(a; b) of pairs by its definition, in loops."""
    number = len(pairs)
    return sum(
        pairs.count(pair)
        / number
        * math.log2(
            pairs.count(pair)
            * number
            / sum(pair[0] == other[0] for other in pairs)
            / sum(pair[1] == other[1] for other in pairs)
        )
        for pair in set(pairs)
    )


def bits_within(triples: list[tuple]) -> float:
    """Returns I(a; b | c) of triples (a, b, c), the mean over the values of c."""
    found = 0.0
    for value in {triple[2] for triple in triples}:
        pairs = [triple[:2] for triple in triples if triple[2] == value]
        found += len(pairs) / len(triples) * bits(pairs)
    return found


def test_a_table_made_by_hand() -> None:
    # Leaves by label: de 0 0 1 3, el 2 3 3 3 for 2 x 2 experts.
    experts = np.array([[[0, 0], [0, 0], [0, 1], [1, 1]], [[1, 0], [1, 1], [1, 1], [1, 1]]])
    found = information.information(
        made(experts, (2, 2), np.array([0, 1])), LAYER, "language", num_permutations=2
    )
    assert found.label_entropy == pytest.approx(1)
    # Outer: de 3 1, el 0 4. I = H(outer) - H(outer | label) = H(3/8) - H(1/4) / 2.
    outer = -3 / 8 * math.log2(3 / 8) - 5 / 8 * math.log2(5 / 8)
    outer -= (-1 / 4 * math.log2(1 / 4) - 3 / 4 * math.log2(3 / 4)) / 2
    # Inner: group 0 has only de; group 1: de 0 1, el 1 3. I = H(1/5) - 4/5 H(1/4).
    inner = -1 / 5 * math.log2(1 / 5) - 4 / 5 * math.log2(4 / 5)
    inner -= 4 / 5 * (-1 / 4 * math.log2(1 / 4) - 3 / 4 * math.log2(3 / 4))
    assert found.levels[0].bits == pytest.approx(outer, abs=1e-12)
    assert found.levels[1].bits == pytest.approx(5 / 8 * inner, abs=1e-12)


@pytest.mark.parametrize("leaves", [(5,), (2, 3), (2, 3, 4)], ids=["one", "two", "three"])
def test_the_chain_rule(leaves: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 4, 9)
    trace = made(random_experts(random, 9, 7, leaves), leaves, labels)
    found = information.information(trace, LAYER, "language", num_permutations=3)
    choices = routed(trace, LAYER, "language")
    whole = bits(list(zip(choices.label.tolist(), choices.leaf.tolist())))
    assert len(found.levels) == len(leaves)
    assert found.leaf.bits == pytest.approx(whole, abs=1e-12)
    shares = [found.share(level) for level in found.levels]
    assert sum(shares) == pytest.approx(found.share(found.leaf), abs=1e-12)


def test_each_part_by_its_definition() -> None:
    random = np.random.default_rng(2)
    tokens = random.integers(0, 5, (9, 7))
    trace = made(random_experts(random, 9, 7, (2, 3)), (2, 3), random.integers(0, 4, 9), tokens)
    found = information.information(trace, LAYER, "language", num_permutations=2)
    choices = routed(trace, LAYER, "language")
    label, leaf, token = (each.tolist() for each in (choices.label, choices.leaf, choices.token))
    inner = list(zip(label, leaf, [each // 3 for each in leaf]))
    assert found.levels[1].bits == pytest.approx(bits_within(inner), abs=1e-12)
    assert found.given_token.bits == pytest.approx(bits_within(list(zip(label, leaf, token))))
    known = list(zip(label, label, token))  # I(label; label | token) = H(label | token)
    assert found.token_entropy == pytest.approx(bits_within(known))


@pytest.mark.parametrize("alike", [1, 5, 8], ids=["no_choices_alike", "some", "all"])
def test_independent_labels(alike: int) -> None:
    """z is as of a standard normal, also where the choices of an example are alike."""
    labels = np.repeat(np.arange(3), 10)
    z, corrected = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        experts = random_experts(random, 30, 8, (2, 3))
        experts[:, :alike] = experts[:, :1]
        trace = made(experts, (2, 3), labels, random.integers(0, 4, (30, 8)))
        found = information.information(trace, LAYER, "language", num_permutations=60)
        parts = (*found.levels, found.leaf, found.given_token)
        z.append([part.z for part in parts])
        corrected.append([part.corrected / part.mean for part in parts])
    # Means of 40: deviation 0.16 for z.
    assert (np.abs(np.mean(z, axis=0)) < 0.6).all()
    assert ((np.std(z, axis=0) > 0.6) & (np.std(z, axis=0) < 1.5)).all()
    assert (np.abs(np.mean(corrected, axis=0)) < 0.25).all()


def test_labels_that_are_outer_groups() -> None:
    random = np.random.default_rng(4)
    labels = np.repeat(np.arange(4), 20)
    experts = random_experts(random, 80, 10, (4, 3))
    experts[..., 0] = labels[:, None]
    found = information.information(
        made(experts, (4, 3), labels), LAYER, "language", num_permutations=50
    )
    outer, inner = found.levels
    assert outer.bits == pytest.approx(2)
    assert found.share(outer) > 0.9
    assert outer.z > 10
    assert inner.bits == pytest.approx(0, abs=1e-12)
    assert inner.z == 0
    assert found.share(inner) == pytest.approx(0, abs=1e-12)


def test_labels_that_are_inner_experts() -> None:
    random = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), 25)
    experts = random_experts(random, 75, 10, (4, 3))
    experts[..., 1] = labels[:, None]
    found = information.information(
        made(experts, (4, 3), labels), LAYER, "language", num_permutations=50
    )
    outer, inner = found.levels
    assert abs(outer.z) < 3
    assert found.share(outer) < 0.02
    assert inner.bits == pytest.approx(math.log2(3), rel=0.02)
    assert found.share(inner) > 0.9
    assert inner.z > 10


def test_tokens_that_alone_choose_the_leaf() -> None:
    """Labels with scripts of their own, routed by token: nothing remains given the token."""
    random = np.random.default_rng(6)
    labels = np.repeat(np.arange(4), 20)
    tokens = labels[:, None] * 10 + random.integers(0, 10, (80, 8))
    tokens[:, :3] = 99  # shared by all
    experts = np.stack([tokens % 2, tokens // 10 % 4], axis=-1)
    found = information.information(
        made(experts, (2, 4), labels, tokens), LAYER, "language", num_permutations=50
    )
    assert found.share(found.leaf) > 0.2
    assert found.given_token.bits == pytest.approx(0, abs=1e-12)
    assert found.given_token.z == 0


def test_one_token_routed_by_its_example() -> None:
    random = np.random.default_rng(7)
    labels = np.repeat(np.arange(4), 20)
    experts = random_experts(random, 80, 8, (4, 2))
    experts[..., 0] = labels[:, None]
    tokens = random.integers(0, 5, (80, 8))
    found = information.information(
        made(experts, (4, 2), labels, tokens), LAYER, "language", num_permutations=50
    )
    assert found.given_token.bits == pytest.approx(found.token_entropy, rel=1e-9)
    assert found.given_token.z > 10
    assert found.share(found.given_token) > 0.8


def test_the_null_of_one_stratum_is_that_of_all_orders() -> None:
    random = np.random.default_rng(8)
    labels = np.array([0, 0, 1, 2, 1])
    experts = random_experts(random, 5, 6, (3,))
    trace = made(experts, (3,), labels)
    found = information.information(trace, LAYER, "language", num_permutations=4000, seed=3)
    leaf = experts[..., 0]
    slow = [
        bits([(int(label), int(each)) for label, row in zip(order, leaf) for each in row])
        for order in itertools.permutations(labels)
    ]
    assert set(np.round(found.leaf.null, 9)) == set(np.round(slow, 9))
    error = np.std(slow) / math.sqrt(4000)
    assert abs(found.leaf.mean - np.mean(slow)) < 4 * error
    assert found.leaf.deviation == pytest.approx(np.std(slow), rel=0.05)


def test_the_null_within_strata_against_a_loop() -> None:
    """Permutes by the same random numbers, cell by cell."""
    random = np.random.default_rng(9)
    example = np.repeat(np.arange(6), 8)
    labels = [0, 1, 2, 0, 1, 1]
    stratum, expert = random.integers(0, 4, (2, 48))
    cells = permutations.cells(example, stratum, np.array(labels)[example], expert)
    _, null = permutations.information(cells, 5, np.random.default_rng(10))
    again = np.random.default_rng(10)
    for found in null:
        draws = again.random(6)
        given = {}
        for value in range(4):
            there = sorted(set(example[stratum == value].tolist()))
            to_give = sorted(labels[each] for each in there)
            for each, label in zip(sorted(there, key=lambda each: draws[each]), to_give):
                given[value, each] = label
        triples = [
            (given[int(s), int(e)], int(x), int(s)) for s, e, x in zip(stratum, example, expert)
        ]
        assert found == pytest.approx(bits_within(triples), abs=1e-12)


def test_an_example_has_one_label_in_strata_with_all_examples() -> None:
    """Then the null is that of labels permuted by example: two strata alike, twice the one."""
    random = np.random.default_rng(12)
    example, label = np.repeat(np.arange(7), 5), np.repeat([0, 1, 2, 0, 1, 1, 2], 5)
    expert = random.integers(0, 3, 35)
    nulls = []
    for copies in (1, 2):
        many = [np.tile(each, copies) for each in (example, label, expert)]
        cells = permutations.cells(many[0], np.arange(35 * copies) // 35, many[1], many[2])
        nulls.append(permutations.information(cells, 9, np.random.default_rng(1))[1])
    np.testing.assert_allclose(nulls[0], nulls[1], atol=1e-12)
    assert nulls[0].std() > 0


def test_the_seed_decides() -> None:
    trace = made_traces.trace(num_examples=8, length=5, leaves=(2, 3), seed=0)
    one, same, other = (
        information.information(trace, LAYER, "language", num_permutations=5, seed=seed).leaf.null
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_examples_of_one_label() -> None:
    trace = made_traces.of_experts(np.array([[[[0], [1]]], [[[1], [1]]]]), (2,), ["de", "de"])
    found = information.information(trace, LAYER, "language", num_permutations=3)
    assert found.label_entropy == 0
    assert (found.leaf.bits, found.leaf.z, found.share(found.leaf)) == (0, 0, 0)


def test_examples_without_a_label_are_left_out() -> None:
    random = np.random.default_rng(11)
    labels = np.array([0, 1, 0, 2])
    experts = random_experts(random, 4, 6, (2, 3))
    trace = made(experts, (2, 3), labels)
    words = trace.categories["label/language"]
    trace.categories["label/language"] = type(words)(words.codes, ("de", "el", ""))
    found = information.information(trace, LAYER, "language", num_permutations=4)
    alone = made(experts[:3], (2, 3), labels[:3])
    expected = information.information(alone, LAYER, "language", num_permutations=4)
    assert found.label_entropy == pytest.approx(expected.label_entropy)
    np.testing.assert_allclose(found.leaf.null, expected.leaf.null, atol=1e-12)
    trace.categories["label/language"] = type(words)(words.codes, ("", "", ""))
    nothing = information.information(trace, LAYER, "language", num_permutations=4)
    assert (nothing.label_entropy, nothing.token_entropy, nothing.leaf.bits) == (0, 0, 0)
