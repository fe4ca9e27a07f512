"""What TensorBoard gets of the experts, by hand and read back by TensorFlow's reader of events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.t5.sessions import expert_summaries
from tests.levels import state


def test_histogram_by_hand() -> None:
    """Each bucket holds the numbers up to its edge; the first one the zeros."""
    found = expert_summaries.histogram(np.array([0.0, 0.0, 1.5, 0.05, 3.0, 1.5]))
    assert len(found.bucket_limit) == len(found.bucket) == 31
    np.testing.assert_allclose(found.bucket_limit, np.arange(31) / 10, atol=1e-12)
    expected = [0] * 31
    expected[0], expected[1], expected[15], expected[30] = 2, 1, 2, 1
    assert list(found.bucket) == expected
    assert (found.min, found.max, found.num) == (0.0, 3.0, 6.0)
    assert found.sum == pytest.approx(6.05)
    assert found.sum_squares == pytest.approx(2 * 2.25 + 0.0025 + 9.0)


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1.0], [0.25, 0.5]])
def test_histograms_count_all_numbers(values: list[float]) -> None:
    found = expert_summaries.histogram(np.array(values))
    assert sum(found.bucket) == len(values) == found.num
    assert sorted(set(found.bucket_limit)) == list(found.bucket_limit)


def test_percentiles_over_layers_by_hand() -> None:
    """Of three layers; a level that only one has gives none."""
    states = [
        state(layer="a", load=np.array([2.0, 2.0]), dropped=0.5),  # imbalance 1
        state(layer="b", load=np.array([3.0, 1.0]), dropped=0.1),  # 1.5
        state(layer="c", load=np.array([4.0, 0.0]), dropped=0.2),  # 2
        state("inner", layer="c"),
    ]
    found = expert_summaries.percentiles(states)
    assert {name: round(value, 9) for name, value in found.items()} == {
        "percentiles/outer/load_imbalance/min": 1.0,
        "percentiles/outer/load_imbalance/p10": 1.1,
        "percentiles/outer/load_imbalance/p50": 1.5,
        "percentiles/outer/load_imbalance/p90": 1.9,
        "percentiles/outer/load_imbalance/max": 2.0,
        "percentiles/outer/fraction_tokens_dropped/min": 0.1,
        "percentiles/outer/fraction_tokens_dropped/p10": 0.12,
        "percentiles/outer/fraction_tokens_dropped/p50": 0.2,
        "percentiles/outer/fraction_tokens_dropped/p90": 0.44,
        "percentiles/outer/fraction_tokens_dropped/max": 0.5,
    }


def test_tensorflow_reads_the_histograms(tmp_path: Path) -> None:
    writer = tf.summary.FileWriter(str(tmp_path))
    states = [
        state("inner", layer="a", load=np.array([[0.0, 6.0, 2.0], [1.0, 1.0, 2.0]])),
        state(layer="a", load=np.array([8.0, 4.0])),
    ]
    writer.add_summary(expert_summaries.summary(states), 7)
    writer.close()
    (file,) = tmp_path.iterdir()
    read = {
        value.tag: (event.step, value.histo)
        for event in tf.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert read.keys() == {"a/inner/relative_load", "a/outer/relative_load"}
    step, histogram = read["a/inner/relative_load"]
    # The mean demand of 12 tokens for 6 experts is 2.
    assert (step, histogram.num, histogram.min, histogram.max) == (7, 6.0, 0.0, 3.0)
    assert histogram.sum_squares == 9 + 1 + 0.25 + 0.25 + 1
