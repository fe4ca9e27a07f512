from __future__ import annotations

import numpy as np
import pytest

from hmoe.t5.data import scores
from hmoe.t5.data.examples import Example

TARGETS = ["abc", "ab", "Juli", "mai"]
PREDICTIONS = ["abd", "ab", "juli", "mai "]
EXAMPLES = [
    Example("de x: 1", "abc", "de", "date"),
    Example("de y: 2", "ab", "de", "unit"),
    Example("fr x: 3", "Juli", "fr", "date"),
    Example("fr x: 4", "mai", "fr", "date"),
]


def test_exact_match_is_to_the_character():
    assert scores.exact_match(TARGETS, PREDICTIONS) == {"exact_match": 25.0}


def test_character_f_score_against_values_by_hand():
    # "abd" for "abc": 2 of 3 characters, 1 of 2 pairs, no triple; precision equals recall.
    by_hand = 100 * (2 / 3 + 1 / 2 + 0) / 3
    assert scores.character_f_score(["abc"], ["abd"])["chrf"] == pytest.approx(by_hand)
    by_hand = 100 * (6 / 7 + 5 / 6 + 4 / 5 + 3 / 4 + 2 / 3 + 1 / 2) / 6
    assert scores.character_f_score(["abcdefh"], ["abcdefg"])["chrf"] == pytest.approx(by_hand)
    assert scores.character_f_score(["ab"], ["ab"]) == {"chrf": 100.0}
    assert scores.character_f_score(["ab"], [""]) == {"chrf": 0.0}


def test_scores_by_label():
    by_kind = scores.scores_by_label(EXAMPLES, TARGETS, PREDICTIONS, "kind")
    assert list(by_kind) == ["date", "unit"]
    assert by_kind["unit"] == {"count": 1.0, "exact_match": 100.0, "chrf": 100.0}
    assert by_kind["date"]["count"] == 3
    assert by_kind["date"]["exact_match"] == 0
    by_language = scores.scores_by_label(EXAMPLES, TARGETS, PREDICTIONS, "language")
    assert by_language["de"]["exact_match"] == 50
    assert by_language["fr"]["exact_match"] == 0
    assert (
        by_language["fr"]["chrf"] == scores.character_f_score(TARGETS[2:], PREDICTIONS[2:])["chrf"]
    )


def test_fields_of_examples_of_an_evaluation():
    example = {
        "inputs": np.array([3, 4, 1]),
        "inputs_pretokenized": "мир".encode(),
        "kind": np.array(b"date", dtype=object),
        "language": b"ru",
    }
    assert scores.field_of(example, "inputs") == "мир"
    assert scores.field_of(example, "kind") == "date"
    assert scores.field_of(example, "language") == "ru"
    assert scores.field_of(EXAMPLES[0], "inputs") == "de x: 1"
    with pytest.raises(ValueError) as error:
        scores.field_of({"inputs": "a", "targets": "b"}, "kind")
    assert str(error.value) == "the example has no 'kind'; it has inputs, targets"


@pytest.mark.parametrize("metric", [scores.exact_match, scores.character_f_score])
def test_predictions_that_cannot_be_scored(metric):
    with pytest.raises(ValueError) as error:
        metric(["a", "b"], ["a"])
    assert str(error.value) == "2 targets but 1 predictions"
    with pytest.raises(ValueError) as error:
        metric([], [])
    assert str(error.value) == "no targets to score"


def test_examples_and_targets_must_be_equally_many():
    with pytest.raises(ValueError) as error:
        scores.scores_by_label(EXAMPLES[:3], TARGETS, PREDICTIONS, "kind")
    assert str(error.value) == "3 examples but 4 targets"
