"""Lines are decoded in batches, in their order, by one session."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hmoe.t5.evaluation import decode_lines
from hmoe.t5.evaluation.decode_lines import LineDecoder
from tests.t5 import tiny

# A blank line is not decoded.
LINES = ["ab", "xyz\n", "", "hello", " ", "q", "wo", "much too long"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny.make(folder).train(tiny.input_fn(tiny.ids(16)), max_steps=2)
    return folder


@pytest.fixture(scope="module")
def expected(trained: Path) -> list[str]:
    """The outputs of the estimator itself."""
    asked = [line.strip() for line in LINES]
    rows = np.zeros([tiny.BATCH, tiny.LENGTH], np.int32)
    rows[:-1] = tiny.rows_of_texts(asked[:-1])[:-1]
    rows[-1] = tiny.VOCABULARY.encode(asked[-1])[: tiny.LENGTH]
    results = tiny.make(trained).predict(tiny.input_fn({"inputs": rows}))
    return [tiny.text(row["outputs"]) if line else "" for row, line in zip(results, asked)]


def test_lines_of_a_file(trained: Path, expected: list[str]) -> None:
    decoder = LineDecoder(tiny.make(trained).with_batch_size(2))
    batches = list(decode_lines.full_batches(LINES, 2))
    assert [len(batch) for batch in batches] == [2, 4, 2]
    assert list(decode_lines.decode_batches(decoder, batches)) == expected
    decoder.close()
    assert (decoder.cut.total, decoder.cut.cut, decoder.cut.first) == (6, 1, 8)
    assert decoder.cut.warning() == (
        "Warning: 1 of 6 lines is cut at 8 tokens (the first is line 8, the longest has 14); "
        'utils.run.sequence_length sets the length of "inputs"'
    )


def test_blank_lines_alone_need_no_session(tmp_path: Path) -> None:
    decoder = LineDecoder(tiny.make(tmp_path))
    batches = decode_lines.full_batches(["", "\t", "\u2003"], 2)
    assert list(decode_lines.decode_batches(decoder, batches)) == ["", "", ""]
    decoder.close()


def test_lines_that_are_typed(trained: Path, expected: list[str]) -> None:
    estimator = tiny.make(trained)
    few = estimator.with_batch_size(decode_lines.smallest_batch(estimator))
    assert few.settings.batch_size == 1
    decoder = LineDecoder(few)
    typed, printed = iter([LINES[0], " ", LINES[1], None]), []
    decode_lines.decode_interactively(decoder, lambda: next(typed), printed.append)
    assert printed == expected[:2]
    decoder.close()


def test_a_line_that_arrives_is_passed_on_before_the_next() -> None:
    sent: queue.Queue[str] = queue.Queue()
    batches = decode_lines.arriving_batches(iter(sent.get, "end"), 3)
    for number, text in enumerate(["a", "", "b"], 1):
        sent.put(text)
        assert next(batches) == [(number, text)]
    for text in ("c", "d", "e", "f", "end"):
        sent.put(text)
    assert [text for batch in batches for _, text in batch] == ["c", "d", "e", "f"]


def test_lines_before_an_error_are_passed_on() -> None:
    def lines() -> Iterator[str]:
        yield from ("a", "b", "c")
        raise ValueError("line 4 is bad")

    batches = decode_lines.arriving_batches(lines(), 2)
    assert [next(batches), next(batches)] == [[(1, "a"), (2, "b")], [(3, "c")]]
    with pytest.raises(ValueError, match="line 4 is bad"):
        next(batches)
