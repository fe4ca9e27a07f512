"""Scores with experts kept are read as they were written, and arranged in tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hmoe.analysis import retention_scores
from hmoe.analysis.retention_scores import RetentionScore, RetentionStudy

SCORES = [
    RetentionScore("el", "all", 1.0, 1.5, 40),
    RetentionScore("de", "all", 1.0, 1.25, 30),
    RetentionScore("de", "top_leaves", 4 / 6, 1.5, 30),
    RetentionScore("de", "top_groups", 2 / 3, 1.75, 30),
    RetentionScore("de", "random_leaves", 4 / 6, 2.0, 30, seed=0),
    RetentionScore("de", "random_leaves", 4 / 6, 3.0, 30, seed=1),
    RetentionScore("de", "random_groups", 1 / 3, 4.0, 30, seed=0),
    RetentionScore("el", "top_groups", 1 / 3, 1.625, 40),
    RetentionScore("el", "without_group", 2 / 3, 3.5, 40, group=2),
    RetentionScore("el", "without_group", 2 / 3, 1.5, 40, group=0),
    RetentionScore("de", "without_group", 2 / 3, 1.0, 30, group=1),
]


# A file, but for its scores.
STUDY = '{"format": 2, "label": "a", "step": 1, "trace": "b", "version": "c", "scores": %s}'


def test_reads_what_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "scores.json")
    scores = (*SCORES, RetentionScore("ελ", "all", 1.0, 0.1, 7))
    study = RetentionStudy("language", 12, "runs/a/trace-12.parquet", "0.0", scores)
    retention_scores.write(path, study)
    assert retention_scores.read(path) == study
    assert "ελ" in Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "nothing of the kind",
        "[]",
        '{"format": 2}',
        STUDY % "[7]",
        STUDY % '[{"label": "de"}]',
    ],
)
def test_what_has_no_scores(tmp_path: Path, text: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        retention_scores.read(str(path))
    assert str(caught.value) == f"{path}: no scores with experts kept, or a damaged file"


def test_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text('{"format": 9}')
    with pytest.raises(ValueError) as caught:
        retention_scores.read(str(path))
    assert str(caught.value) == (
        f"{path}: scores of format 9, but this hmoe reads format 2; score the model again with this"
        " version"
    )


def test_the_table() -> None:
    found = retention_scores.table(SCORES)
    nan = np.nan
    assert found.labels == ("de", "el")
    np.testing.assert_allclose(found.shares, [1 / 3, 2 / 3])
    np.testing.assert_array_equal(found.loss_of_all, [1.25, 1.5])
    # [labels, shares, top leaves, top groups, random leaves, random groups]
    np.testing.assert_array_equal(
        found.loss,
        [[[nan, nan, nan, 4], [1.5, 1.75, 2.5, nan]], [[nan, 1.625, nan, nan], [nan] * 4]],
    )
    np.testing.assert_array_equal(
        found.num_scores, [[[0, 0, 0, 1], [1, 1, 2, 0]], [[0, 1, 0, 0], [0] * 4]]
    )
    assert found.deviation[0, 1, 2] == pytest.approx(np.sqrt(0.5))
    assert np.isnan(np.delete(found.deviation.ravel(), 6)).all()
    np.testing.assert_array_equal(
        found.excess,
        [[[nan, nan, nan, 2.75], [0.25, 0.5, 1.25, nan]], [[nan, 0.125, nan, nan], [nan] * 4]],
    )


def test_the_matrix_of_groups() -> None:
    found = retention_scores.group_matrix(SCORES)
    assert found.labels == ("de", "el")
    np.testing.assert_array_equal(found.excess, [[np.nan, -0.25, np.nan], [0, np.nan, 2]])
    without_all = [score for score in SCORES if score.kept != "all"]
    assert np.isnan(retention_scores.group_matrix(without_all).excess).all()


def test_no_scores() -> None:
    assert retention_scores.table([]).loss.shape == (0, 0, 4)
    assert retention_scores.group_matrix([]).excess.shape == (0, 0)
