"""Flip rates of traces, by hand and beside a loop over tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hmoe.analysis.flips import SURE, FlipRate, flip_rates
from hmoe.analysis.traces import Trace

from . import made_traces


def changed(trace: Trace, **columns: np.ndarray) -> Trace:
    return dataclasses.replace(trace, numbers={**trace.numbers, **columns})


def test_a_trace_beside_itself() -> None:
    trace = made_traces.trace(num_examples=3, length=5, leaves=(2, 3), seed=0)
    layer = made_traces.LAYER
    assert flip_rates(trace, trace) == [
        FlipRate(layer, "outer", 15, 0, 0, 15, 0),
        FlipRate(layer, "inner", 15, 0, 0, 15, 0),
    ]


def test_by_hand() -> None:
    # [examples 1, layers 1, positions 4, levels 2]
    experts = np.array([[[[0, 1], [0, 2], [1, 0], [1, 1]]]])
    first = made_traces.of_experts(experts, (2, 3), ["de"])
    experts[0, 0, 1] = [1, 2]  # to another group
    experts[0, 0, 3] = [1, 2]  # to another expert of the group
    second = made_traces.of_experts(experts, (2, 3), ["de"])
    margin = np.where((first.numbers["position"] == 3), SURE / 2, 1).astype(np.float32)
    rates = flip_rates(changed(first, margin=margin), second)
    assert rates == [
        FlipRate(made_traces.LAYER, "outer", 4, 1, 0, 3, 1),
        # The second token came to other groups; the last was not sure.
        FlipRate(made_traces.LAYER, "inner", 3, 1, 0, 2, 0),
    ]
    assert rates[0].rate == 1 / 4
    assert rates[0].sure_rate == 1 / 3
    assert rates[1].sure_rate == 0


def two_choices(experts: list[list[int]]) -> Trace:
    """A trace of one level in which each token of one example has some choices, best first."""
    length = len(experts)
    one = made_traces.of_experts(np.zeros((1, 1, length, 1), int), (4,), ["de"])
    rows = np.repeat(np.arange(length), [len(each) for each in experts])
    rank = np.concatenate([np.arange(len(each)) for each in experts])
    numbers = {name: values[rows] for name, values in one.numbers.items()}
    categories = {
        name: dataclasses.replace(each, codes=each.codes[rows])
        for name, each in one.categories.items()
    }
    numbers.update(rank=rank, expert=np.concatenate(experts))
    return Trace(one.manifest, numbers, categories)


def test_sets_and_orders() -> None:
    first = two_choices([[0, 1], [2, 3], [1, 2], [3], [-1]])
    second = two_choices([[1, 0], [2, 1], [1, 2], [3, 0], [-1]])
    (rate,) = flip_rates(first, second)
    # The first is reordered; the second and the fourth have other sets.
    assert (rate.tokens, rate.flipped, rate.reordered) == (5, 2, 1)


def test_experts_that_choose_have_no_sure_tokens() -> None:
    trace = made_traces.trace(num_examples=2, length=3, leaves=(2,), seed=0)
    unsure = changed(trace, margin=np.full(len(trace), np.nan, np.float32))
    assert [each.sure for each in flip_rates(unsure, trace)] == [0]


def test_other_layers() -> None:
    first = made_traces.trace(num_examples=1, length=2, leaves=(2, 3), seed=0)
    second = made_traces.trace(num_examples=1, length=2, leaves=(2, 4), seed=0)
    with pytest.raises(ValueError) as caught:
        flip_rates(first, second)
    assert str(caught.value) == (
        "layer encoder/block_000/layer_001: one trace has 2 x 3 experts there and the other 2 x 4"
        " experts; compare traces of models with the same experts"
    )
    layers = (dataclasses.replace(second.manifest.layers[0], name="decoder"),)
    renamed = dataclasses.replace(
        second, manifest=dataclasses.replace(second.manifest, layers=layers)
    )
    with pytest.raises(ValueError) as caught:
        flip_rates(first, renamed)
    assert str(caught.value) == (
        "layer encoder/block_000/layer_001: one trace has 2 x 3 experts there and the other no"
        " experts; compare traces of models with the same experts"
    )


def test_other_tokens() -> None:
    first = made_traces.trace(num_examples=2, length=4, leaves=(2,), seed=0)
    token = np.where(
        (first.numbers["example"] == 1) & (first.numbers["position"] == 2),
        9,
        first.numbers["token"],
    )
    with pytest.raises(ValueError) as caught:
        flip_rates(first, changed(first, token=token))
    assert str(caught.value) == (
        "layer encoder/block_000/layer_001: the traces are not of the same tokens; the first"
        " difference is in example 1 at position 2. Trace the same data with both"
    )
