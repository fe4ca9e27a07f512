from __future__ import annotations

from collections import Counter

import pytest

from hmoe.t5.data import examples


def test_numbers_are_the_same_on_every_machine():
    random = examples.ExampleRandom(0, 0)
    assert [random.integer(n) for n in (2, 10, 1000, 73049, 10**7)] == [0, 9, 293, 17198, 8607464]
    random = examples.ExampleRandom(1, 7)
    assert [random.integer(n) for n in (2, 10, 1000, 73049, 10**7)] == [0, 5, 424, 63878, 5178634]
    assert examples.digest("de full date: 2037-07-15 Wed") == 4558148339995018978


def test_numbers_are_even():
    counts = Counter(examples.ExampleRandom(3, index).integer(5) for index in range(20_000))
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert all(abs(count - 4000) < 200 for count in counts.values())


def test_splits_have_their_shares():
    counts = Counter(examples.split_of(f"input {number}") for number in range(20_000))
    assert abs(counts["validation"] - 400) < 80
    assert abs(counts["test"] - 400) < 80
    assert counts["train"] == 20_000 - counts["validation"] - counts["test"]


def test_fits_counts_bytes_not_characters():
    def fits(inputs, targets, *limits):
        names = ("max_input_bytes", "max_target_bytes")
        return examples.LengthLimits(**dict(zip(names, limits))).fits(inputs, targets)

    assert fits("ab", "мир", 2, 6)
    assert not fits("ab", "мир", 2, 5)
    assert not fits("abc", "мир", 2, 6)


def test_unknown_split_names_those_there_are():
    with pytest.raises(ValueError) as error:
        examples.check_split("dev")
    assert str(error.value) == "no split 'dev'; there are train, validation, test"
