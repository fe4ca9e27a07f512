"""Group sizes against a search of all of them."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.layer import groups


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 9))
def test_largest_group_size_is_the_largest(tokens, requested, splits):
    fitting = [
        size
        for size in range(1, requested + 1)
        if tokens % size == 0 and (tokens // size) % splits == 0
    ]
    assert groups.largest_group_size(tokens, requested, splits) == max(fitting, default=0)


def test_examples_of_a_group_are_rounded_from_the_exact_product():
    # 1.15 * 50 = 57.5 in decimal, 57.49999999999999 in binary.
    assert groups.asked_in_examples("x", 1.15, 2, 100, 100).size == 58


def group_size(tokens, requested, splits=1, experts=1, exact=False):
    return groups.group_size(
        "inner", tokens, groups.asked_in_tokens(requested), splits, num_experts=experts, exact=exact
    )


@pytest.mark.parametrize(
    ("tokens", "requested", "splits", "experts", "expected"),
    [
        (2560, 1024, 1, 4, 640),
        (96, 20, 4, 2, 12),
        (12, 1024, 2, 2, 6),
        (7, 7, 1, 7, 7),
        (1, 1024, 1, 8, 1),
    ],
)
def test_group_size(tokens, requested, splits, experts, expected):
    assert group_size(tokens, requested, splits, experts) == expected


def test_tokens_that_cannot_be_split():
    with pytest.raises(ValueError) as error:
        group_size(10, 5, splits=4)
    assert str(error.value) == (
        "level 'inner': 10 tokens cannot be split over 4 devices; use a batch of which the tokens"
        " are a multiple of 4, or another layout"
    )


def test_tokens_that_only_useless_sizes_divide():
    with pytest.raises(ValueError) as error:
        group_size(2 * 101, 50, splits=2, experts=4)
    assert str(error.value) == (
        "level 'inner': the 101 tokens of each of 2 device(s) have no divisor between 4 (the number"
        " of experts) and group_size = 50; the largest is 1. Change the batch size or the sequence"
        " length, or set group_size = 101"
    )
    assert group_size(2 * 101, 101, splits=2, experts=4) == 101


FORCED = (
    "level 'inner': groups have 8 tokens on this mesh, but 12 on one device, since their"
    " number must be a multiple of 3; results differ where buffers overflow. Set"
    " group_size = 8 for the same numbers on both"
)


def test_mesh_that_forces_another_size_warns(caplog):
    with caplog.at_level(logging.WARNING, "hmoe.layer.groups"):
        assert group_size(24, 12, splits=3) == 8
    assert caplog.messages == [FORCED]
    caplog.clear()
    assert group_size(24, 8, splits=3) == 8
    assert caplog.messages == []


def test_mesh_that_forces_another_size_is_an_error_if_groups_must_be_exact():
    with pytest.raises(ValueError) as error:
        group_size(24, 12, splits=3, exact=True)
    assert str(error.value) == FORCED + " (exact_groups = True)"
