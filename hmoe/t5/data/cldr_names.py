"""Names of territories, languages, scripts, currencies and cities, from English into a language.

The names are those of the Unicode CLDR as babel carries them, in every language that has any:

    de territory: Germany      ->  Deutschland
    ja language: Icelandic     ->  アイスランド語
    sr_Latn city: Mayotte      ->  Majot

A name that happens to be the English one is kept (about one in thirteen): when not to change a name
is part of the task, and the score of copying stands beside a model's own.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

from babel import localedata

from hmoe.t5.data import examples
from hmoe.t5.data.examples import Example

KINDS: tuple[str, ...] = ("territory", "language", "script", "currency", "city")

_FIELDS: dict[str, str] = {
    "territory": "territories", "language": "languages", "script": "scripts",
    "currency": "currency_names", "city": "time_zones",
}  # fmt: skip
# A language alone, or with a script: regional variants differ in few names.
_LOCALE_NAME = re.compile(r"[a-z]{2,3}(_[A-Z][a-z]{3})?")

_FEWEST_NAMES = 10

# (kind, code) -> name, where the code is CLDR's, such as "DE" or "Europe/Berlin".
_Names = dict[tuple[str, str], str]


def _names_of(locale: str) -> _Names:
    """Returns a locale's own names, by kind and code."""
    data = localedata.LocaleDataDict(localedata.load(locale))
    names: _Names = {}
    for kind, field in _FIELDS.items():
        for code, name in data.get(field, {}).items():
            if kind == "city":
                name = name.get("city") if _is_city(code) else None
            if name:
                names[kind, code] = name
    if locale != "root":
        # What CLDR gives to every language (42 cities) is no language's own.
        for key, name in _inherited().items():
            if names.get(key) == name:
                del names[key]
    return names


@functools.cache
def _inherited() -> _Names:
    return _names_of("root")


def _is_city(zone: str) -> bool:
    return "/" in zone and not zone.startswith("Etc/")


@functools.cache
def _english() -> _Names:
    return {**_inherited(), **_names_of("en")}


def _in_english(kind: str, code: str) -> str | None:
    name = _english().get((kind, code))
    if name is None and kind == "city":
        # CLDR names a city in English only where the zone's identifier does not already do so.
        return code.rsplit("/", 1)[-1].replace("_", " ")
    return name


@functools.cache
def languages() -> tuple[str, ...]:
    """Returns the locales that have ten names or more of their own, English apart, sorted.

    Scripts of a language that say nothing new (`sr_Cyrl` is `sr`) and aliases (`no` is `nb`) are
    left out.
    """
    kept: list[str] = []
    tables: dict[int, list[_Names]] = {}
    for locale in sorted(localedata.locale_identifiers()):
        if locale in ("en", "root") or not _LOCALE_NAME.fullmatch(locale):
            continue
        names = _names_of(locale)
        same_size = tables.setdefault(len(names), [])
        if len(names) >= _FEWEST_NAMES and names not in same_size:
            same_size.append(names)
            kept.append(locale)
    return tuple(kept)


@dataclasses.dataclass(frozen=True)
class NameSettings:
    """What `name_examples` takes.

    Attributes:
      languages: CLDR locales such as "de" or "sr_Latn"; all that have names if empty.
      kinds: kinds of names, of `KINDS`.
      max_input_bytes: longest input kept, in UTF-8 bytes.
      max_target_bytes: longest target kept, in UTF-8 bytes.

    Raises:
      ValueError: at construction, for a language or kind that is not known, or a number below 1.
    """

    languages: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    max_input_bytes: int = examples.MAX_INPUT_BYTES
    max_target_bytes: int = examples.MAX_TARGET_BYTES

    def __post_init__(self) -> None:
        for field in ("languages", "kinds"):  # gin gives lists
            object.__setattr__(self, field, tuple(getattr(self, field)))
        examples.check_not_empty("NameSettings", "kinds", self.kinds)
        for field in ("max_input_bytes", "max_target_bytes"):
            examples.check_positive("NameSettings", field, getattr(self, field))
        for language in self.languages:
            if language == "en" or not localedata.exists(language):
                raise ValueError(
                    f"NameSettings.languages: CLDR has no names in language {language!r} (English "
                    "is the language of the inputs); use locale names such as de, fr, ja or sr_Latn"
                )
        examples.check_kinds("NameSettings", self.kinds, KINDS)


def _pairs(language: str, settings: NameSettings) -> Iterator[Example]:
    """Yields the pairs of one language by kind and code, each input once."""
    seen = set()
    for (kind, code), name in sorted(_names_of(language).items()):
        english = _in_english(kind, code)
        if kind not in settings.kinds or english is None:
            continue
        inputs = f"{language} {kind}: {english}"
        if inputs not in seen and examples.fits(
            inputs, name, settings.max_input_bytes, settings.max_target_bytes
        ):
            seen.add(inputs)
            yield Example(inputs, name, language, kind)


def name_examples(split: str, settings: NameSettings | None = None) -> Iterator[Example]:
    """Yields the pairs of one split, each input once, the same in every process.

    All languages are read before the first pair is yielded, to mix them: seconds.

    Args:
      split: "train", "validation" or "test".
      settings: what to take; the defaults if None.

    Yields:
      Examples in an order that mixes languages and kinds.

    Raises:
      ValueError: if there is no such split.
    """
    examples.check_split(split)
    settings = settings or NameSettings()
    keyed: list[tuple[int, Example]] = []
    for language in settings.languages or languages():
        for example in _pairs(language, settings):
            key = examples.digest(example.inputs)
            if examples.split_of_digest(key) == split:
                keyed.append((key, example))
    # Digests are as good as random numbers, and belong to the inputs alone.
    keyed.sort()
    for _, example in keyed:
        yield example
