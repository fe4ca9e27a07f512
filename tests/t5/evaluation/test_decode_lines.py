"""Lines are decoded in batches, in their order, by one session."""

from __future__ import annotations

from pathlib import Path

import pytest

from hmoe.t5.evaluation import decode_lines
from tests.t5 import tiny

LINES = ["ab", "xyz\n", "hello", "q", "wo"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    return folder


@pytest.fixture(scope="module")
def expected(trained: Path) -> list[str]:
    """The outputs of the estimator itself."""
    rows = {"inputs": tiny.rows_of_texts([line.strip() for line in LINES])}
    results = list(tiny.make(trained).predict(tiny.input_fn(rows)))
    return [row["outputs"].decode("utf-8", errors="replace") for row in results[: len(LINES)]]


def test_lines_of_a_file(trained: Path, expected: list[str]) -> None:
    estimator = tiny.make(trained).with_batch_size(2)
    decoder = decode_lines.LineDecoder(estimator)
    assert list(decode_lines.decode_lines(decoder, iter(LINES), 2)) == expected
    decoder.close()


def test_lines_that_are_typed(trained: Path, expected: list[str]) -> None:
    estimator = tiny.make(trained)
    few = estimator.with_batch_size(decode_lines.smallest_batch(estimator))
    assert few.settings.batch_size == 1
    decoder = decode_lines.LineDecoder(few)
    typed, printed = iter([LINES[0], " ", LINES[1], None]), []
    decode_lines.decode_interactively(decoder, lambda: next(typed), printed.append)
    assert printed == expected[:2]
    decoder.close()
