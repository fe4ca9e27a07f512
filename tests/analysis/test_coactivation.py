"""The tokens that two leaves share."""

from __future__ import annotations

import numpy as np

from hmoe.analysis.coactivation import coactivation

from . import made_traces
from .made_traces import LAYER
from .test_token_leaves import with_second_choices


def test_all_pairs_of_a_token() -> None:
    experts = np.array([[[[0, 2], [1, 0], [1, 1], [0, 2]]]])
    trace = made_traces.of_experts(experts, (2, 3), ["el"])
    trace = with_second_choices(trace, row=1, parent=1, went=2)  # position 0: leaves 2, 5 and 0
    trace = with_second_choices(trace, row=1, parent=0, went=0, path=2)
    trace = with_second_choices(trace, row=5, parent=1, went=2)  # position 2: leaves 4 and 5
    found = coactivation(trace, LAYER)
    np.testing.assert_array_equal(
        found.counts,
        [
            [1, 0, 1, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
            [1, 0, 2, 0, 0, 1],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 1, 1],
            [1, 0, 1, 0, 1, 2],
        ],
    )
    np.testing.assert_allclose(found.shares[2], [1 / 2, 0, 1, 0, 0, 1 / 2])
    np.testing.assert_allclose(found.shares[:, 2], [1, 0, 1, 0, 0, 1 / 2])
    np.testing.assert_allclose(found.shares[1], np.zeros(6))
