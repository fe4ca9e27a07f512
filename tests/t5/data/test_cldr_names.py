from __future__ import annotations

from collections import Counter

import pytest

from hmoe.t5.data import cldr
from tests.t5.data import fresh

BY_HAND = {
    "de territory: Germany": "Deutschland",
    "fr language: German": "allemand",
    "ja language: Icelandic": "アイスランド語",
    "sr_Latn city: Mayotte": "Majot",
    "ar territory: Japan": "اليابان",
    "hi currency: Euro": "यूरो",
    "ru city: Athens": "Афины",
    "ko script: Greek": "그리스 문자",
    "zh_Hant territory: South Korea": "南韓",
    "tok territory: Mexico": "ma Mesiko",
    "am language: French": "ፈረንሳይኛ",
    "el currency: US Dollar": "Δολάριο ΗΠΑ",
    "ja city: Paris": "パリ",
    "fr city: London": "Londres",
    "he city: New York": "ניו יורק",
}


@pytest.fixture(scope="module")
def splits():
    return {split: list(cldr.name_examples(split)) for split in cldr.SPLITS}


@pytest.fixture(scope="module")
def everything(splits):
    return [example for of_split in splits.values() for example in of_split]


def test_known_names(everything):
    targets = {example.inputs: example.targets for example in everything}
    assert {inputs: targets.get(inputs) for inputs in BY_HAND} == BY_HAND


def test_another_process_yields_the_same(splits):
    drawn = fresh.first_examples("name_examples", "train", 2_000, salt="12345")
    assert drawn == [list(example) for example in splits["train"][:2_000]]


def test_no_input_is_in_two_splits_or_twice_and_none_is_too_long(splits, everything):
    """Checks all default examples."""
    inputs = [example.inputs for example in everything]
    assert len(inputs) == len(set(inputs))
    for split, of_split in splits.items():
        assert all(cldr.split_of(example.inputs) == split for example in of_split)
    assert max(len(e.inputs.encode()) for e in everything) < cldr.SEQUENCE_LENGTH["inputs"]
    assert max(len(e.targets.encode()) for e in everything) < cldr.SEQUENCE_LENGTH["targets"]


def test_number_of_examples_and_languages(everything):
    languages = Counter(example.language for example in everything)
    assert len(everything) > 220_000
    assert len(languages) > 250
    assert min(languages.values()) >= 10
    assert {example.kind for example in everything} == set(cldr.NAME_KINDS)


def test_aliases_and_inherited_names_are_left_out(everything):
    assert "nb" in cldr.name_languages()
    assert not {"no", "sr_Cyrl", "en", "root"} & set(cldr.name_languages())
    assert "tok city: Ciudad Juárez" not in {example.inputs for example in everything}


def test_order_mixes_languages(splits):
    assert len({example.language for example in splits["train"][:500]}) > 150


def test_nearly_nothing_is_lost_to_the_byte_limits(everything):
    unlimited = cldr.NameSettings(max_input_bytes=1000, max_target_bytes=1000)
    count = sum(1 for split in cldr.SPLITS for _ in cldr.name_examples(split, unlimited))
    assert 0.98 < len(everything) / count < 1


OPTIONS = [
    ("languages", ["fr", "sr_Latn"]),
    ("kinds", ["city"]),
    ("max_input_bytes", 20),
    ("max_target_bytes", 8),
]


@pytest.mark.parametrize(("field", "value"), OPTIONS, ids=[field for field, _ in OPTIONS])
def test_every_setting_changes_the_examples(field, value):
    settings = {"languages": ["de", "ja"]}
    before = list(cldr.name_examples("train", cldr.NameSettings(**settings)))
    after = list(cldr.name_examples("train", cldr.NameSettings(**{**settings, field: value})))
    assert before != after
    assert after


ERRORS = [
    (
        {"languages": ["xx"]},
        "NameSettings.languages: CLDR has no names in language 'xx' (English is the language of "
        "the inputs); use locale names such as de, fr, ja or sr_Latn",
    ),
    (
        {"languages": ["en"]},
        "NameSettings.languages: CLDR has no names in language 'en' (English is the language of "
        "the inputs); use locale names such as de, fr, ja or sr_Latn",
    ),
    (
        {"kinds": ["cities"]},
        "NameSettings.kinds: no kind 'cities'; there are territory, language, script, currency, "
        "city",
    ),
    ({"kinds": []}, "NameSettings.kinds is empty; name at least one"),
    ({"max_input_bytes": 0}, "NameSettings.max_input_bytes is 0; it must be at least 1"),
    ({"max_target_bytes": 0}, "NameSettings.max_target_bytes is 0; it must be at least 1"),
]


@pytest.mark.parametrize(("settings", "message"), ERRORS)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError) as error:
        cldr.NameSettings(**settings)
    assert str(error.value) == message


def test_unknown_split():
    with pytest.raises(ValueError) as error:
        next(cldr.name_examples("dev"))
    assert str(error.value) == "no split 'dev'; there are train, validation, test"
