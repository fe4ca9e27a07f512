"""Domain and vocabulary specialization, on a table made by hand and in a loop."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.analysis import specialization

from . import made_traces
from .made_traces import LAYER
from .test_token_leaves import with_second_choices

EXPERTS = np.array([[[[0, 2], [1, 0], [1, 1]]], [[[1, 2], [0, 0], [1, 2]]]])
TOKENS = np.array([[7, 8, 7], [7, 7, 5]])


def test_domains() -> None:
    trace = made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"], TOKENS)
    trace = with_second_choices(trace, row=1, parent=1, went=2)  # of "el"
    trace.numbers["went"][3] = -1  # of "el"
    found = specialization.domain_specialization(trace, LAYER, "language")
    assert found.labels == ("de", "el")
    np.testing.assert_array_equal(found.counts, [[1, 0, 0, 0, 0, 2], [0, 0, 1, 0, 1, 1]])
    np.testing.assert_array_equal(found.tokens, [3, 3])
    np.testing.assert_allclose(found.shares, found.counts / 3)
    assert found.even == pytest.approx(1 / 6)


def test_vocabulary() -> None:
    trace = made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"], TOKENS)
    trace.numbers["went"][3] = -1  # of token 8
    found = specialization.vocabulary_specialization(trace, LAYER, min_count=1)
    np.testing.assert_array_equal(found.token, [5, 7, 8])
    np.testing.assert_array_equal(
        found.counts, [[0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(found.occurrences, [1, 4, 1])
    quarter = 1 / 4
    np.testing.assert_allclose(found.by_leaf, [quarter, np.nan, quarter, np.nan, quarter, 5 / 8])
    assert found.mean == pytest.approx((1 + 1 / 4 + 0) / 3)
    often = specialization.vocabulary_specialization(trace, LAYER, min_count=2)
    np.testing.assert_array_equal(often.token, [7])
    assert often.mean == pytest.approx(1 / 4)
    assert np.isnan(specialization.vocabulary_specialization(trace, LAYER, min_count=9).mean)


def test_routing_by_token_alone_is_wholly_specialized() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(0, 12, (6, 20))
    experts = np.stack([tokens % 2, tokens // 2 % 3], axis=-1)[:, None]
    trace = made_traces.of_experts(experts, (2, 3), ["de"] * 6, tokens)
    found = specialization.vocabulary_specialization(trace, LAYER, min_count=1)
    assert found.mean == 1
    np.testing.assert_array_equal(found.by_leaf, np.ones(6))


def test_random_routing_is_as_even_as_the_load() -> None:
    random = np.random.default_rng(1)
    experts = np.stack([random.integers(0, size, (300, 1, 20)) for size in (2, 3)], axis=-1)
    labels = ["de", "el", "fi"] * 100
    trace = made_traces.of_experts(experts, (2, 3), labels, random.integers(0, 4, (300, 20)))
    domains = specialization.domain_specialization(trace, LAYER, "language")
    np.testing.assert_allclose(domains.shares, np.full((3, 6), domains.even), atol=0.04)
    words = specialization.vocabulary_specialization(trace, LAYER)
    np.testing.assert_allclose(words.by_leaf, np.full(6, 1 / 6), atol=0.04)
