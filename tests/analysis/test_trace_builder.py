"""Batches of decisions become one trace, whose rows stand in order."""

from __future__ import annotations

import numpy as np

from hmoe.analysis.decisions import LevelDecisions
from hmoe.analysis.trace_builder import ExampleInfo, TraceBuilder
from hmoe.analysis.traces import LayerInfo, LevelInfo, Manifest

LEVEL = LevelInfo("only", 3, 1, "SwitchRouter")
LAYERS = (LayerInfo("encoder", "inputs", (LEVEL,)), LayerInfo("decoder", "targets", (LEVEL,)))
EXAMPLES = [
    ExampleInfo("second", {"language": "el"}),
    ExampleInfo("second", {}),
    ExampleInfo("first", {"language": "de"}),
]
MANIFEST = Manifest("0.0", "model.ckpt-2", 2, 3, ("language",), LAYERS, {})


def switch(chosen: list[list[int]]) -> LevelDecisions:
    """Sends each token to one expert, where there is room; -1 is padding."""
    expert = np.array(chosen)[..., None]
    real = expert >= 0
    arrays = {
        "chosen": expert,
        "rank": np.zeros_like(expert),
        "demand": real.astype(np.float32),
        "wanted": real.astype(np.float32),
        "weight": np.full(expert.shape, 0.5, np.float32),
        "went": expert,
        "position": np.where(real, 0, -1),
        "importance": real[..., 0].astype(np.float32),
        "preferences": np.eye(3, dtype=np.float32)[expert[..., 0]],
    }
    return LevelDecisions(LEVEL, 4, arrays)


def test_rows_stand_in_order_with_their_words() -> None:
    builder = TraceBuilder(LAYERS)
    builder.add(1, [switch([[2, 2], [0, -1]])], np.array([[7, 8], [7, 0]]), np.array([1, 0]))
    builder.add(0, [switch([[1, -1], [0, 1]])], np.array([[5, 0], [7, 5]]), np.array([1, 0]))
    # A row of padding fills the last batch.
    builder.add(0, [switch([[2, 0], [1, 1]])], np.array([[5, 6], [0, 0]]), np.array([2, -1]))
    trace = builder.build(MANIFEST, EXAMPLES, lambda sequence, token: f"{sequence[0]}{token}")
    columns = ("example", "position", "token", "expert")
    assert list(zip(*(trace.numbers[name] for name in columns))) == [
        (0, 0, 7, 0),
        (0, 1, 5, 1),
        (0, 0, 7, 0),
        (1, 0, 5, 1),
        (1, 0, 7, 2),
        (1, 1, 8, 2),
        (2, 0, 5, 2),
        (2, 1, 6, 0),
    ]
    assert (
        list(trace.words("layer"))
        == ["encoder"] * 2 + ["decoder"] + ["encoder"] + ["decoder"] * 2 + ["encoder"] * 2
    )
    assert list(trace.words("piece")) == ["i7", "i5", "t7", "i5", "t7", "t8", "i5", "i6"]
    assert list(trace.words("task")) == ["second"] * 6 + ["first"] * 2
    assert list(trace.words("label/language")) == ["el"] * 3 + [""] * 3 + ["de"] * 2
