from __future__ import annotations

import pytest

from hmoe.t5.data import baselines, scores
from hmoe.t5.data.examples import Example

TRAINING = [
    Example("de unit: 1", "b", "de", "unit"),
    Example("de unit: 2", "a", "de", "unit"),
    Example("de unit: 3", "b", "de", "unit"),
    Example("fr unit: 1", "d", "fr", "unit"),
    Example("fr unit: 2", "c", "fr", "unit"),
    Example("de date: 1", "c", "de", "date"),
    Example("de date: 2", "c", "de", "date"),
]
ASKED = [
    Example("de unit: 9", "b", "de", "unit"),
    Example("fr unit: c", "c", "fr", "unit"),
    Example("de date: 10: 5", "10: 5", "de", "date"),
    Example("ru date: 8", "8", "ru", "date"),
]
TARGETS = [example.targets for example in ASKED]


def test_copy_takes_what_follows_the_first_colon():
    answers = baselines.copy_baseline(ASKED)
    assert answers == ["9", "c", "10: 5", "8"]
    assert scores.exact_match(TARGETS, answers) == {"exact_match": 75.0}


def test_copy_of_an_input_without_a_colon_is_the_input():
    assert baselines.copy_baseline([{"inputs": "hello"}]) == ["hello"]


def test_most_frequent_of_the_same_labels():
    # Two French answers are equally frequent: the first in code-point order. Russian is unseen: the
    # most frequent of all.
    answers = baselines.most_frequent_baseline(TRAINING, ASKED)
    assert answers == ["b", "c", "c", "c"]
    assert baselines.most_frequent_baseline(reversed(TRAINING), ASKED) == answers
    assert scores.exact_match(TARGETS, answers) == {"exact_match": 50.0}


def test_most_frequent_of_one_label_or_none():
    assert baselines.most_frequent_baseline(TRAINING, ASKED, ("kind",)) == ["b", "b", "c", "c"]
    assert baselines.most_frequent_baseline(TRAINING, ASKED, ()) == ["c"] * 4


def test_most_frequent_of_nothing():
    with pytest.raises(ValueError) as error:
        baselines.most_frequent_baseline([], ASKED)
    assert str(error.value) == "most_frequent_baseline needs at least one training example"
