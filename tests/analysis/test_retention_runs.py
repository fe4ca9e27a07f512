"""The runs of a retention study, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.analysis.retention_runs import RetentionRun, runs
from hmoe.analysis.traces import Trace

from . import made_traces

LAYERS = ("encoder", "decoder")


def trace() -> Trace:
    """Three groups of two: "de" uses 0.1 and 2.0 of the encoder most, "el" is in 1.0 alone."""
    de = [[[0, 1], [0, 1], [2, 0]], [[1, 1], [1, 1], [0, 0]]]
    el = [[[1, 0], [1, 0], [1, 0]], [[2, 0], [2, 0], [2, 1]]]
    return made_traces.of_experts(np.array([de, el]), (3, 2), ["de", "el"], layers=LAYERS)


def of(found: list[RetentionRun], label: str, kept: str) -> list[RetentionRun]:
    return [each for each in found if (each.label, each.kept) == (label, kept)]


def test_every_way_for_every_label() -> None:
    found = runs(trace(), "language", num_seeds=2)
    for label in ("de", "el"):
        assert len(of(found, label, "all")) == 1
        for kept in ("top_leaves", "top_groups"):
            assert [each.share for each in of(found, label, kept)] == [1 / 3, 2 / 3]
        for kept in ("random_leaves", "random_groups"):
            shares = [(each.share, each.seed) for each in of(found, label, kept)]
            assert shares == [(1 / 3, 0), (1 / 3, 1), (2 / 3, 0), (2 / 3, 1)]
        without = [(each.layer, each.group) for each in of(found, label, "without_group")]
        assert without == [(layer, group) for layer in LAYERS for group in range(3)]
    assert len(found) == 2 * (1 + 4 + 8 + 6)


@pytest.mark.parametrize(
    ("num_groups", "kept"), [(1, []), (2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (16, [4, 8, 12])]
)
def test_quarters_of_the_groups_are_kept(num_groups: int, kept: list[int]) -> None:
    experts = np.zeros((1, 1, 5, 2), int)
    given = made_traces.of_experts(experts, (num_groups, 2), ["de"], layers=("encoder",))
    found = of(runs(given, "language", num_seeds=0), "de", "top_groups")
    assert [round(each.share * num_groups) for each in found] == kept


def test_the_most_used_are_kept() -> None:
    found = runs(trace(), "language", num_seeds=0)
    leaves = of(found, "de", "top_leaves")[0].masks["encoder"]
    # 0.1 and, of those used once, 2.0; inside a group without a kept leaf all are 1.
    np.testing.assert_array_equal(leaves[0], [1, 0, 1])
    np.testing.assert_array_equal(leaves[1], [[0, 1], [1, 1], [1, 0]])
    groups = of(found, "de", "top_groups")[0].masks
    np.testing.assert_array_equal(groups["encoder"][0], [1, 0, 0])
    np.testing.assert_array_equal(groups["decoder"][0], [0, 1, 0])
    greek = of(found, "el", "top_groups")[0].masks
    np.testing.assert_array_equal(greek["encoder"][0], [0, 1, 0])
    np.testing.assert_array_equal(greek["decoder"][0], [0, 0, 1])


def test_one_group_of_one_layer_is_left_out() -> None:
    run = of(runs(trace(), "language", num_seeds=0), "el", "without_group")[4]
    assert (run.layer, run.group, run.share) == ("decoder", 1, 10 / 12)
    np.testing.assert_array_equal(run.masks["encoder"][0], [1, 1, 1])
    np.testing.assert_array_equal(run.masks["decoder"][0], [1, 0, 1])


def test_an_unknown_label() -> None:
    with pytest.raises(ValueError) as caught:
        runs(trace(), "color", num_seeds=1)
    assert str(caught.value) == "the trace has no label 'color'; it has 'language'"
