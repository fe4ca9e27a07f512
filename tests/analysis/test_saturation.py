"""The choices that two checkpoints share."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.analysis.saturation import saturation

from . import made_traces
from .made_traces import LAYER
from .test_token_leaves import with_second_choices

EXPERTS = np.array([[[[0, 2], [1, 0], [1, 1], [0, 0]]]])


def test_the_same_checkpoint() -> None:
    trace = made_traces.trace(num_examples=4, length=5, leaves=(2, 3), seed=0)
    found = saturation(trace, trace, LAYER)
    np.testing.assert_array_equal(found.shares, [1, 1])
    np.testing.assert_allclose(found.even, [1 / 2, 1 / 6])
    assert found.tokens == 20


def test_a_table_made_by_hand() -> None:
    later = made_traces.of_experts(EXPERTS, (2, 3), ["el"])
    later = with_second_choices(later, row=1, parent=1, went=2)  # position 0: leaves 2 and 5
    later.numbers["went"][7] = -1  # position 3: none
    experts = EXPERTS.copy()
    experts[0, 0, 0] = [1, 2]  # one leaf and one group of two
    experts[0, 0, 1] = [1, 2]  # another leaf of the same group
    earlier = made_traces.of_experts(experts, (2, 3), ["el"])
    earlier.numbers["went"][5] = -1  # position 2: none
    found = saturation(earlier, later, LAYER)
    np.testing.assert_allclose(found.shares, [(1 / 2 + 1 + 0) / 3, (1 / 2 + 0 + 0) / 3])
    np.testing.assert_allclose(found.even, [2 / 3 / 2, 2 / 3 / 6])
    assert found.tokens == 3


def test_random_choices_are_as_by_chance() -> None:
    one, other = (made_traces.trace(200, 20, (2, 3), seed=seed) for seed in (0, 1))
    found = saturation(one, other, LAYER)
    np.testing.assert_allclose(found.shares, found.even, atol=0.03)


def test_traces_that_cannot_be_compared() -> None:
    trace = made_traces.trace(num_examples=4, length=5, leaves=(2, 3), seed=0)
    with pytest.raises(ValueError) as caught:
        saturation(trace, made_traces.trace(4, 5, (3, 2), seed=0), LAYER)
    assert str(caught.value) == (
        f"layer {LAYER}: the earlier trace has 2 x 3 experts and the later 3 x 2; compare"
        " checkpoints of one model"
    )
    with pytest.raises(ValueError) as caught:
        saturation(trace, made_traces.trace(3, 5, (2, 3), seed=0), LAYER)
    assert str(caught.value) == (
        f"layer {LAYER}: the traces are not of the same tokens (20 and 15); trace the same data"
        " with both checkpoints"
    )


def test_no_tokens() -> None:
    trace = made_traces.of_experts(EXPERTS[:0], (2, 3), ["el"])
    found = saturation(trace, trace, LAYER)
    assert np.isnan(found.shares).all()
