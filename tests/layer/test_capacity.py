"""Expert capacity: integers against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.layer import capacity


@given(st.integers(1, 300), st.floats(0.1, 5), st.integers(1, 50), st.integers(1, 9))
def test_capacity_is_never_above_the_group_nor_below_the_minimum(size, factor, experts, minimum):
    slots = capacity.expert_capacity("x", size, factor, experts, minimum)
    assert slots == min(size, max(minimum, int(size * Fraction(str(factor)) / experts)))


@pytest.mark.parametrize(
    ("size", "factor", "experts", "expected"),
    [
        # In binary the product is just below a whole number.
        (100, 1.15, 5, 23),
        (180, 1.4, 4, 63),
        (1000, 0.29, 10, 29),
        (3000, 1.001, 3, 1001),
        (100, np.float64(1.15), 5, 23),
        (7, 1.1, 3, 2),
    ],
)
def test_capacity_is_rounded_down_from_the_exact_quotient(size, factor, experts, expected):
    assert capacity.expert_capacity("x", size, factor, experts, 0) == expected


def test_no_room_for_a_token():
    with pytest.raises(ValueError) as error:
        capacity.expert_capacity("outer", 12, 0.5, 7, 0)
    assert str(error.value) == (
        "level 'outer': a group of 12 tokens with capacity factor 0.5 gives each of 7 experts 0.857"
        " slots and min_capacity is 0, so no token finds room; raise the capacity factor to 0.59,"
        " or min_capacity to 1"
    )


@pytest.mark.parametrize(("size", "experts"), [(12, 7), (3, 64), (9, 10), (1024, 2049), (7, 3)])
def test_the_capacity_factor_that_is_recommended_gives_room(size, experts):
    with pytest.raises(ValueError) as error:
        capacity.expert_capacity("outer", size, 1e-6, experts, 0)
    factor = float(str(error.value).split("raise the capacity factor to ")[1].split(",")[0])
    assert capacity.expert_capacity("outer", size, factor, experts, 0) >= 1
