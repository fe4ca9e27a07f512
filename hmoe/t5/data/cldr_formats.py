"""Examples of dates, numbers, money, units and lists in the form that a language gives them.

An input names the language, the style if there are several, the kind, and the value in a neutral
notation:

    de full date: 2037-07-15 Wed    ->  Mittwoch, 15. Juli 2037
    fr number: 1234567.8            ->  1 234 567,8
    pl long unit: 5 kilometer       ->  5 kilometrów

The input contains the weekday because finding it is a matter of arithmetic, not of language.
Numbers to be shortened have at most three digits that are not zero, so that nothing has to be
rounded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from babel import Locale, UnknownLocaleError

from hmoe import checks
from hmoe.config import configuration, setting
from hmoe.t5.data import cldr_values, examples
from hmoe.t5.data.examples import Example, ExampleRandom
from hmoe.t5.data.shards import WHOLE, Shard

# Nine scripts. Languages whose dates are far longer in UTF-8 than these (Thai, Tamil, Burmese) need
# larger byte limits.
DEFAULT_LANGUAGES: tuple[str, ...] = (
    "ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi", "id",
    "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "uk", "vi", "zh",
)  # fmt: skip
KINDS: tuple[str, ...] = tuple(cldr_values.KINDS)


@functools.cache
def _locale(language: str) -> Locale:
    return Locale.parse(language)


def _languages(owner: str, field: str, value: Sequence[str]) -> tuple[str, ...]:
    """Returns CLDR locales as a tuple; raises ValueError for none or for unknown ones."""
    if not value:
        raise ValueError(f"{owner}.{field} is empty; name at least one")
    for language in value:
        try:
            _locale(language)
        except (UnknownLocaleError, ValueError):
            raise ValueError(
                f"{owner}.{field}: CLDR has no language {language!r}; use locale "
                f"names such as {', '.join(DEFAULT_LANGUAGES[:4])} or sr_Latn"
            ) from None
    return tuple(value)


@configuration()
class FormatSettings(examples.LengthLimits):
    """Settings of the task `cldr_formats`."""

    languages: Sequence[str] = setting(
        DEFAULT_LANGUAGES,
        doc="""CLDR locales, such as "de", "pt_PT" or "sr_Latn". More of them are harder to learn in
        the same number of steps.""",
        unit="list of locales",
        source="hmoe",
        check=_languages,
    )
    kinds: Sequence[str] = setting(
        KINDS,
        doc="Kinds of values.",
        unit="list of kinds",
        source="hmoe",
        check=examples.some_of(KINDS),
    )
    num_draws: int = setting(
        500_000,
        doc="""Number of examples drawn for all splits together; repeated and too long ones are left
        out.""",
        unit="examples",
        source="hmoe",
        check=examples.positive,
    )
    seed: int = setting(
        0,
        doc="Seed of the random values.",
        unit="whole number",
        source="hmoe",
        check=checks.non_negative_int,
    )


def format_examples(
    split: str, settings: FormatSettings | None = None, shard: Shard = WHOLE
) -> Iterator[Example]:
    """Draws the examples of one split, each input once, the same in every process.

    Args:
      split: "train", "validation" or "test".
      settings: the settings; the defaults if None.
      shard: the examples to yield, by their inputs; those of other shards are drawn, but not
        written, which would take longer.

    Yields:
      Examples in an order that mixes languages and kinds.

    Raises:
      ValueError: there is no such split.
    """
    examples.check_split(split)
    settings = settings or FormatSettings()
    # Each kind as often as its weight.
    kinds = [kind for kind in settings.kinds for _ in range(cldr_values.KINDS[kind].weight)]
    seen: set[int] = set()
    for index in range(settings.num_draws):
        random = ExampleRandom(settings.seed, index)
        language = random.choice(settings.languages)
        kind = random.choice(kinds)
        value = cldr_values.KINDS[kind].draw(random)
        inputs = f"{language} {value.text}"
        # The cheap checks come first: most draws for a small split fail them.
        key = examples.digest(inputs)
        if not shard.has_digest(key // examples.NUM_PARTS):
            continue
        if examples.split_of_digest(key) != split or key in seen:
            continue
        seen.add(key)
        targets = value.write(_locale(language))
        if targets and settings.fits(inputs, targets):
            yield Example(inputs, targets, language, kind)
