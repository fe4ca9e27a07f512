"""What is scored beside what, and what of it is cut."""

from __future__ import annotations

import pytest

from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import score
from hmoe.t5.commands.score import Lines
from tests.t5 import tiny

LENGTHS = {"inputs": 4, "targets": 6}
INPUTS = Lines("--input_file 'a'", ["abc", "", " abcd "])
TARGETS = Lines("--target_file 'b'", ["abcdef", "abcde", ""])


def counts(inputs: Lines | None, model_type: str) -> list[tuple]:
    found = score.count_cut(inputs, TARGETS, tiny.VOCABULARY, model_type, LENGTHS)
    return [(each.what, each.total, each.cut, each.first, each.longest) for each in found]


def test_what_is_cut_of_inputs_and_targets() -> None:
    """A text of as many tokens as the model reads has no room for its end mark."""
    assert counts(INPUTS, "bitransformer") == [("inputs", 3, 1, 3, 5), ("targets", 3, 1, 1, 7)]


def test_a_language_model_reads_both_as_one_sequence() -> None:
    assert counts(INPUTS, "lm") == [("targets", 3, 1, 1, 10)]
    assert counts(None, "lm") == [("targets", 3, 1, 1, 7)]


def test_a_language_model_scores_targets_alone() -> None:
    score._check(None, TARGETS, "lm")
    score._check(INPUTS, TARGETS, "bitransformer")
    with pytest.raises(ValueError) as error:
        score._check(Lines("score_from_strings.inputs", ["a"]), TARGETS, "lm")
    assert str(error.value) == (
        "score_from_strings.inputs has 1 line and --target_file 'b' has 3 lines; each target needs "
        "its input on the line of the same number (repeat an input that has several targets)"
    )


def test_files_are_read_before_a_graph_is_built() -> None:
    request = Request(command="score", model_dir="m", target_file="none")
    with pytest.raises(ValueError) as error:
        score._score_function(request, Console())
    assert str(error.value) == "--target_file 'none' does not exist"
