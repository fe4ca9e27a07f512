"""Which experts are kept, on tables made by hand and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmoe.analysis import retention
from hmoe.analysis.retention import KeptExperts
from hmoe.analysis.routed import routed

from . import made_traces
from .made_traces import LAYER

SIZES = (3, 2)
# Groups 0 to 2 have 5, 4 and 6; leaves 5, 3 and 4 are the most used.
USE = np.array([2, 3, 0, 4, 0, 6])


def leaves(kept: KeptExperts) -> list[int]:
    return np.flatnonzero(kept.leaves).tolist()


def test_use_and_order() -> None:
    experts = np.array([[[[0, 1], [2, 0], [2, 0]]], [[[1, 1], [1, 0], [2, 1]]]])
    trace = made_traces.of_experts(experts, SIZES, ["el", "de"])
    use = retention.use_by_label(routed(trace, LAYER, "language"))
    np.testing.assert_allclose(use, np.array([[0, 0, 1, 1, 0, 1], [0, 1, 0, 0, 2, 0]]) / 3)
    np.testing.assert_array_equal(retention.leaves_by_use(use[1]), [4, 1, 0, 2, 3, 5])
    np.testing.assert_array_equal(retention.groups_by_use(use[0], SIZES), [1, 2, 0])
    np.testing.assert_array_equal(retention.groups_by_use(USE, SIZES), [2, 0, 1])


def test_masks_of_leaves() -> None:
    outer, inner = retention.keep_leaves([5, 0, 1], SIZES).masks
    np.testing.assert_array_equal(outer, [1, 0, 1])
    np.testing.assert_array_equal(inner, [[1, 1], [1, 1], [0, 1]])
    assert outer.dtype == inner.dtype == np.float32


def test_masks_of_groups() -> None:
    outer, inner = retention.keep_groups([1, 2], SIZES).masks
    np.testing.assert_array_equal(outer, [0, 1, 1])
    np.testing.assert_array_equal(inner, np.ones((3, 2)))
    outer, _ = retention.without_group(1, SIZES).masks
    np.testing.assert_array_equal(outer, [1, 0, 1])
    outer, inner = retention.keep_all(SIZES).masks
    np.testing.assert_array_equal(outer, np.ones(3))
    np.testing.assert_array_equal(inner, np.ones((3, 2)))


def test_masks_of_one_and_three_levels() -> None:
    (only,) = retention.keep_groups([3, 1], (5,)).masks
    np.testing.assert_array_equal(only, [0, 1, 0, 1, 0])
    (only,) = retention.keep_leaves([4], (5,)).masks
    np.testing.assert_array_equal(only, [0, 0, 0, 0, 1])
    outer, middle, inner = retention.keep_leaves([7, 11], (2, 3, 2)).masks
    np.testing.assert_array_equal(outer, [0, 1])
    np.testing.assert_array_equal(middle, [[1, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(inner, [[[1, 1], [1, 1], [1, 1]], [[0, 1], [1, 1], [0, 1]]])


def test_the_most_used() -> None:
    assert leaves(retention.top_groups(USE, SIZES, 1)) == [4, 5]
    assert leaves(retention.top_groups(USE, SIZES, 2)) == [0, 1, 4, 5]
    assert leaves(retention.top_leaves(USE, SIZES, 1)) == [3, 5]
    assert leaves(retention.top_leaves(USE, SIZES, 2)) == [0, 1, 3, 5]
    assert retention.top_leaves(USE, SIZES, 2).share == pytest.approx(2 / 3)


def test_random_ones() -> None:
    groups = [leaves(retention.random_groups(SIZES, 2, seed)) for seed in range(30)]
    assert {tuple(each) for each in groups} == {(0, 1, 2, 3), (0, 1, 4, 5), (2, 3, 4, 5)}
    kept = [leaves(retention.random_leaves(SIZES, 2, seed)) for seed in range(100)]
    assert {len(each) for each in kept} == {4}
    assert len({tuple(each) for each in kept}) == 15
    assert kept[7] == leaves(retention.random_leaves(SIZES, 2, 7))


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3).flatmap(
        lambda sizes: st.tuples(
            st.just(sizes),
            st.sets(st.integers(0, int(np.prod(sizes)) - 1), min_size=1),
        )
    )
)
def test_masks_keep_just_these_leaves(sizes_and_leaves: tuple[list[int], set[int]]) -> None:
    sizes, wanted = sizes_and_leaves
    kept = retention.keep_leaves(sorted(wanted), sizes)
    assert leaves(kept) == sorted(wanted)
    for depth, mask in enumerate(kept.masks):
        assert mask.shape == tuple(sizes[: depth + 1])
        assert mask.any(axis=-1).all()  # a router always has an expert to choose
    # A token that goes by the masks alone ends at a leaf that is kept.
    for leaf, path in enumerate(np.ndindex(*sizes)):
        open_way = all(mask[path[: depth + 1]] for depth, mask in enumerate(kept.masks))
        assert open_way == (leaf in wanted)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: retention.keep_leaves([], SIZES), "no leaf is kept; keep at least one of 6"),
        (
            lambda: retention.keep_leaves([2, 6], SIZES),
            "there is no leaf 6 among 6 leaves, numbered from 0",
        ),
        (
            lambda: retention.keep_groups([-1], SIZES),
            "there is no group -1 among 3 groups, numbered from 0",
        ),
        (
            lambda: retention.without_group(3, SIZES),
            "there is no group 3 among 3 groups, numbered from 0",
        ),
        (lambda: retention.without_group(0, (1, 4)), "no group is kept; keep at least one of 1"),
        *(
            (call, f"cannot keep {number} of 3 outer groups; keep between 1 and 3")
            for call, number in [
                (lambda: retention.top_groups(USE, SIZES, 0), 0),
                (lambda: retention.top_leaves(USE, SIZES, 4), 4),
                (lambda: retention.random_groups(SIZES, 5, 0), 5),
                (lambda: retention.random_leaves(SIZES, -1, 0), -1),
            ]
        ),
    ],
)
def test_what_cannot_be_kept(call, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == text
