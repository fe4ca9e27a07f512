"""Names of territories, languages, scripts, currencies and cities, from English into a language.

The names are those of the Unicode CLDR as babel carries them, in every language that has any:

    de territory: Germany      ->  Deutschland
    ja language: Icelandic     ->  アイスランド語
    sr_Latn city: Mayotte      ->  Majot

A name that equals the English one is kept (about one in thirteen): knowing when not to change a
name is part of the task, and the score of copying is shown beside a model's own.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator, Sequence

from babel import localedata

from hmoe.config import configuration, setting
from hmoe.t5.data import examples
from hmoe.t5.data.examples import Example
from hmoe.t5.data.shards import WHOLE, Shard

KINDS: tuple[str, ...] = ("territory", "language", "script", "currency", "city")

# The name of each kind in babel's data.
_BABEL_FIELDS: dict[str, str] = {
    "territory": "territories", "language": "languages", "script": "scripts",
    "currency": "currency_names", "city": "time_zones",
}  # fmt: skip
# A language alone, or with a script: regional variants differ in few names.
_LOCALE_NAME = re.compile(r"[a-z]{2,3}(_[A-Z][a-z]{3})?")

_FEWEST_NAMES = 10

_gathering = threading.Lock()

# (kind, code) -> name, where the code is CLDR's, such as "DE" or "Europe/Berlin".
_Names = dict[tuple[str, str], str]


def _own_names(locale: str) -> _Names:
    """Returns the names that a locale has of its own."""
    data = localedata.LocaleDataDict(localedata.load(locale))
    names: _Names = {}
    for kind, field in _BABEL_FIELDS.items():
        for code, name in data.get(field, {}).items():
            if kind == "city":
                name = name.get("city") if _is_city(code) else None
            if name:
                names[kind, code] = name
    if locale != "root":
        # The names that CLDR gives to every language (42 cities) are no language's own.
        for key, name in _inherited_names().items():
            if names.get(key) == name:
                del names[key]
    return names


@functools.cache
def _inherited_names() -> _Names:
    return _own_names("root")


def _is_city(zone: str) -> bool:
    return "/" in zone and not zone.startswith("Etc/")


@functools.cache
def _english_names() -> _Names:
    return {**_inherited_names(), **_own_names("en")}


def _english_name(kind: str, code: str) -> str | None:
    name = _english_names().get((kind, code))
    if name is None and kind == "city":
        # CLDR names a city in English only where the time zone's identifier does not.
        return code.rsplit("/", 1)[-1].replace("_", " ")
    return name


@functools.cache
def languages() -> tuple[str, ...]:
    """Returns the locales with at least ten names of their own, sorted, without English.

    Scripts that change no name of a language (`sr_Cyrl` is `sr`) and aliases (`no` is `nb`) are
    left out.
    """
    kept: list[str] = []
    names_by_count: dict[int, list[_Names]] = {}
    for locale in sorted(localedata.locale_identifiers()):
        if locale in ("en", "root") or not _LOCALE_NAME.fullmatch(locale):
            continue
        names = _own_names(locale)
        same_count = names_by_count.setdefault(len(names), [])
        if len(names) >= _FEWEST_NAMES and names not in same_count:
            same_count.append(names)
            kept.append(locale)
    return tuple(kept)


def _languages(owner: str, field: str, value: Sequence[str]) -> tuple[str, ...]:
    """Returns CLDR locales as a tuple; raises ValueError for those without names."""
    for language in value:
        if language == "en" or not localedata.exists(language):
            raise ValueError(
                f"{owner}.{field}: CLDR has no names in language {language!r} (English "
                "is the language of the inputs); use locale names such as de, fr, ja or sr_Latn"
            )
    return tuple(value)


@configuration()
class NameSettings(examples.LengthLimits):
    """Settings of the task `cldr_names`."""

    languages: Sequence[str] = setting(
        (),
        doc='CLDR locales such as "de" or "sr_Latn". None named: all that have names.',
        unit="list of locales",
        source="hmoe",
        check=_languages,
    )
    kinds: Sequence[str] = setting(
        KINDS,
        doc="Kinds of names.",
        unit="list of kinds",
        source="hmoe",
        check=examples.some_of(KINDS),
    )


def _examples_in(language: str, settings: NameSettings) -> Iterator[Example]:
    """Yields the examples of one language by kind and code, each input once."""
    seen = set()
    for (kind, code), name in sorted(_own_names(language).items()):
        english = _english_name(kind, code)
        if kind not in settings.kinds or english is None:
            continue
        inputs = f"{language} {kind}: {english}"
        if inputs not in seen and settings.fits(inputs, name):
            seen.add(inputs)
            yield Example(inputs, name, language, kind)


def name_examples(
    split: str, settings: NameSettings | None = None, shard: Shard = WHOLE
) -> Iterator[Example]:
    """Yields the examples of one split, each input once, the same in every process.

    All languages are read before the first example is yielded, to mix them, which takes seconds.

    Args:
      split: "train", "validation" or "test".
      settings: the settings; the defaults if None.
      shard: the examples to yield, which take turns with those of other shards.

    Yields:
      Examples in an order that mixes languages and kinds.

    Raises:
      ValueError: there is no such split.
    """
    examples.check_split(split)
    settings = settings or NameSettings()
    # All shards of a process read at once: the first gathers the examples for all.
    with _gathering:
        gathered = _examples_of(split, settings)
    yield from shard.of_rows(gathered)


@functools.lru_cache(maxsize=1)
def _examples_of(split: str, settings: NameSettings) -> tuple[Example, ...]:
    """Returns the examples of all languages in a mixed order."""
    by_digest: list[tuple[int, Example]] = []
    for language in settings.languages or languages():
        for example in _examples_in(language, settings):
            key = examples.digest(example.inputs)
            if examples.split_of_digest(key) == split:
                by_digest.append((key, example))
    # Digests are as good as random numbers, and depend on the inputs alone.
    by_digest.sort()
    return tuple(example for _, example in by_digest)
