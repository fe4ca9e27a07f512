from __future__ import annotations

import itertools
from collections import Counter

import pytest

from hmoe.t5.data import cldr, cldr_formats
from tests.t5.data import fresh

# As CLDR 47 in babel 2.18 has them. Spaces in numbers do not break: U+00A0, or the narrow U+202F.
BY_HAND = {
    "de full date: 1969-10-02 Thu": "Donnerstag, 2. Oktober 1969",
    "ja full date: 2062-06-01 Thu": "2062年6月1日木曜日",
    "ar full date: 2090-11-25 Sat": "السبت، 25 نوفمبر 2090",
    "uk medium date: 2099-08-17": "17 серп. 2099\u202fр.",
    "en short time: 19:40": "7:40\u202fPM",
    "el short time: 12:03": "12:03\u202fμ.μ.",
    "fr number: 346140.18": "346\u202f140,18",
    "hi number: -3537.46": "-3,537.46",
    "sv number: 569222.4": "569\u00a0222,4",
    "tr percent: 46": "%46",
    "vi short money: 415554.74 USD": "415.554,74\u00a0US$",
    "he long money: 3779.88 USD": "3,779.88 דולר אמריקאי",
    "zh long money: 6139.09 GBP": "6,139.09英镑",
    "ru long unit: 31 kilometer": "31 километр",
    "ru long unit: 5 liter": "5 литров",
    "fi long unit: 8.9 minute": "8,9 minuuttia",
    "de short unit: 11.9 liter": "11,9 l",
    "es or list: Delhi, Warsaw, Lisbon": "Delhi, Warsaw o Lisbon",
    "cs and list: Lima, Kyiv": "Lima a\u00a0Kyiv",
    "ja and list: Tokyo, Sydney, Riga": "Tokyo、Sydney、Riga",
    "hi long compact: 27600000": "2.76 करोड़",
    "ko short compact: 1020000": "102만",
    "pt long compact: 49500000": "49,5 milhões",
    "pl relative: in 42 year": "za 42 lata",
    "pl relative: 10 month ago": "10 miesięcy temu",
    "it relative: in 10 hour": "tra 10 ore",
}


@pytest.fixture(scope="module")
def training():
    return list(itertools.islice(cldr.format_examples("train"), 12_000))


def test_known_examples(training):
    targets = {example.inputs: example.targets for example in training}
    assert {inputs: targets.get(inputs) for inputs in BY_HAND} == BY_HAND


def test_another_process_draws_the_same(training):
    drawn = fresh.first_examples("format_examples", "train", 2_000, salt="12345")
    assert drawn == [list(example) for example in training[:2_000]]


def test_every_language_and_kind_is_there(training):
    languages = Counter(example.language for example in training)
    kinds = Counter(example.kind for example in training)
    assert set(languages) == set(cldr.DEFAULT_LANGUAGES)
    assert len(languages) == 24
    assert set(kinds) == set(cldr.FORMAT_KINDS)
    assert min(languages.values()) > 0.8 * max(languages.values())


def test_labels_are_those_of_the_input(training):
    for example in training:
        words = example.inputs.partition(": ")[0].split()
        assert (words[0], words[-1]) == (example.language, example.kind)


@pytest.mark.slow
def test_no_input_is_in_two_splits_or_twice_and_none_is_too_long():
    """Checks a large part of the default examples, in all languages."""
    settings = cldr.FormatSettings(num_draws=150_000)
    inputs = []
    for split in cldr.SPLITS:
        of_split = list(cldr.format_examples(split, settings))
        assert all(cldr.split_of(example.inputs) == split for example in of_split)
        assert max(len(e.inputs.encode()) for e in of_split) < cldr.SEQUENCE_LENGTH["inputs"]
        assert max(len(e.targets.encode()) for e in of_split) < cldr.SEQUENCE_LENGTH["targets"]
        inputs += [example.inputs for example in of_split]
    assert len(inputs) == len(set(inputs))
    assert len(inputs) > 100_000


def test_small_splits_share_no_input_either():
    settings = cldr.FormatSettings(languages=("de", "ja"), num_draws=4_000)
    inputs = [e.inputs for split in cldr.SPLITS for e in cldr.format_examples(split, settings)]
    assert len(inputs) == len(set(inputs)) > 2_000


def test_weekday_matches_the_date():
    settings = cldr.FormatSettings(languages=("en",), kinds=("date",), num_draws=400)
    full = [e for e in cldr.format_examples("train", settings) if " full " in e.inputs]
    assert len(full) > 50
    for example in full:
        assert example.targets.startswith(example.inputs.split()[-1])


def test_nothing_has_to_be_rounded():
    settings = cldr.FormatSettings(languages=("en",), kinds=("compact",), num_draws=500)
    for example in cldr.format_examples("train", settings):
        digits = example.inputs.split(": ")[1].rstrip("0")
        shown = "".join(c for c in example.targets if c.isdigit()).rstrip("0")
        assert shown == digits


def test_a_unit_without_a_pattern_is_left_out():
    """CLDR has no long units in Oromo, where babel would fall back on English identifiers."""
    settings = cldr.FormatSettings(languages=("om",), kinds=("unit",), num_draws=500)
    assert [e for e in cldr.format_examples("train", settings) if " long " in e.inputs] == []


OPTIONS = [
    ("languages", ["de", "sr_Latn"]),
    ("kinds", ["date"]),
    ("num_draws", 1_500),
    ("max_input_bytes", 20),
    ("max_target_bytes", 8),
    ("seed", 1),
]


@pytest.mark.parametrize(("field", "value"), OPTIONS, ids=[field for field, _ in OPTIONS])
def test_every_setting_changes_the_examples(field, value):
    settings = {"num_draws": 2_000}
    before = list(cldr.format_examples("train", cldr.FormatSettings(**settings)))
    after = list(cldr.format_examples("train", cldr.FormatSettings(**{**settings, field: value})))
    assert before != after
    assert after


ERRORS = [
    (
        {"languages": ["de", "xx"]},
        "FormatSettings.languages: CLDR has no language 'xx'; use locale names such as ar, cs, da, "
        "de or sr_Latn",
    ),
    (
        {"kinds": ["dates"]},
        "FormatSettings.kinds: no kind 'dates'; there are date, number, money, unit, list, "
        "relative, time, percent, compact",
    ),
    ({"languages": []}, "FormatSettings.languages is empty; name at least one"),
    ({"kinds": []}, "FormatSettings.kinds is empty; name at least one"),
    ({"num_draws": 0}, "FormatSettings.num_draws is 0; it must be at least 1"),
    ({"max_input_bytes": 0}, "FormatSettings.max_input_bytes is 0; it must be at least 1"),
    ({"max_target_bytes": -1}, "FormatSettings.max_target_bytes is -1; it must be at least 1"),
]


@pytest.mark.parametrize(("settings", "message"), ERRORS)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError) as error:
        cldr.FormatSettings(**settings)
    assert str(error.value) == message


def test_unknown_split():
    with pytest.raises(ValueError) as error:
        next(cldr_formats.format_examples("dev"))
    assert str(error.value) == "no split 'dev'; there are train, validation, test"
