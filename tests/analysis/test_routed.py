"""The choices that reached a leaf, with their labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hmoe.analysis import routed
from hmoe.analysis.traces import Category, Trace

from . import made_traces
from .made_traces import LAYER

# [examples 2, layers 1, positions 3, levels 2]
EXPERTS = np.array([[[[0, 2], [1, 0], [1, 1]]], [[[1, 2], [0, 0], [1, 2]]]])
TOKENS = np.array([[7, 8, 9], [7, 7, 5]])


def made() -> Trace:
    return made_traces.of_experts(EXPERTS, (2, 3), ["el", "de"], TOKENS)


def changed(trace: Trace, **columns: np.ndarray) -> Trace:
    return dataclasses.replace(trace, numbers={**trace.numbers, **columns})


def test_each_choice_has_its_leaf_and_label() -> None:
    found = routed.routed(made(), LAYER, "language")
    assert found.labels == ("de", "el")
    assert len(found) == 6
    np.testing.assert_array_equal(found.example, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.position, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(found.token, [7, 8, 9, 7, 7, 5])
    np.testing.assert_array_equal(found.label, [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.leaf, [2, 3, 4, 5, 0, 5])
    np.testing.assert_array_equal(found.groups(0), [0, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(found.groups(1), found.leaf)
    np.testing.assert_array_equal(found.weight, np.ones(6))
    np.testing.assert_array_equal(found.counts(), [[1, 0, 0, 0, 0, 2], [0, 0, 1, 1, 1, 0]])


def test_what_is_unused_or_without_room_is_left_out() -> None:
    trace = made()
    used, went = trace.numbers["used"].copy(), trace.numbers["went"].copy()
    used[1] = False  # the inner choice of example 0, position 0
    went[3] = -1  # position 1
    went[5] = 2  # position 2 was retried
    found = routed.routed(changed(trace, used=used, went=went), LAYER, "language")
    np.testing.assert_array_equal(found.leaf, [5, 5, 0, 5])


def test_three_levels() -> None:
    experts = np.array([[[[1, 2, 0], [0, 1, 3]]]])
    trace = made_traces.of_experts(experts, (2, 3, 4), ["de"])
    found = routed.routed(trace, LAYER)
    np.testing.assert_array_equal(found.leaf, [20, 7])
    np.testing.assert_array_equal(found.groups(1), [5, 1])
    np.testing.assert_array_equal(found.groups(0), [1, 0])


def test_examples_without_a_label() -> None:
    trace = made()
    categories = dict(trace.categories)
    codes = categories["label/language"].codes
    categories["label/language"] = Category(codes, ("", "el"))  # "de" was 0
    found = routed.routed(dataclasses.replace(trace, categories=categories), LAYER, "language")
    assert found.labels == ("el",)
    np.testing.assert_array_equal(found.label, [0, 0, 0, -1, -1, -1])
    np.testing.assert_array_equal(found.counts(), [[0, 0, 1, 1, 1, 0]])
    unlabeled = routed.routed(trace, LAYER)
    assert unlabeled.labels == ()
    assert unlabeled.counts().shape == (0, 6)


def test_only_the_layer_that_was_asked_for() -> None:
    experts = np.stack([EXPERTS[:, 0], 1 - EXPERTS[:, 0].clip(0, 1)], 1)
    trace = made_traces.of_experts(experts, (2, 3), ["el", "de"], layers=("one", "other"))
    np.testing.assert_array_equal(routed.routed(trace, "one").leaf, [2, 3, 4, 5, 0, 5])
    np.testing.assert_array_equal(routed.routed(trace, "other").leaf, [3, 1, 0, 0, 4, 0])


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError) as caught:
        routed.routed(made(), "encoder", "language")
    assert str(caught.value) == f"the trace has no layer 'encoder'; it has '{LAYER}'"
    with pytest.raises(ValueError) as caught:
        routed.routed(made(), LAYER, "kind")
    assert str(caught.value) == "the trace has no label 'kind'; it has 'language'"
