"""Dates, numbers, money, units and lists, written in a language's own way.

The rules are those of the Unicode CLDR as babel carries and applies them. An input names the
language, the style where there is more than one, the kind, and the value in a neutral notation:

    de full date: 2037-07-15 Wed    ->  Mittwoch, 15. Juli 2037
    fr number: 1234567.8            ->  1 234 567,8
    pl long unit: 5 kilometer       ->  5 kilometrów

The weekday stands in the input because finding it is arithmetic and not language; numbers to be
shortened have at most three digits that are not zero, so that nothing is to be rounded.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple

from babel import Locale, UnknownLocaleError, dates, lists, numbers, units

from hmoe.t5.data import examples
from hmoe.t5.data.examples import Draws, Example

# Nine scripts. Languages whose dates are far longer in UTF-8 than these (Thai, Tamil, Burmese) work
# too, with larger byte limits.
DEFAULT_LANGUAGES: tuple[str, ...] = (
    "ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "he", "hi", "id",
    "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "uk", "vi", "zh",
)  # fmt: skip

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FIRST_DAY = datetime.date(1900, 1, 1)
_NUM_DAYS = (datetime.date(2100, 1, 1) - _FIRST_DAY).days
_CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CNY", "INR", "BRL", "CHF")
_WHOLE_CURRENCIES = ("JPY",)
_UNITS = (
    "length-kilometer", "length-meter", "length-centimeter", "mass-kilogram", "mass-gram",
    "volume-liter", "temperature-celsius", "speed-kilometer-per-hour", "digital-gigabyte",
    "duration-hour", "duration-minute", "duration-day", "duration-month", "duration-year",
)  # fmt: skip
_SECONDS = {
    "second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800,
    "month": 30 * 86400, "year": 365 * 86400,
}  # fmt: skip
_CITIES = (
    "Accra", "Athens", "Berlin", "Cairo", "Dakar", "Delhi", "Dublin", "Hanoi", "Havana", "Kyiv",
    "Lagos", "Lima", "Lisbon", "Madrid", "Milan", "Nairobi", "Oslo", "Paris", "Prague", "Quito",
    "Riga", "Rome", "Seoul", "Sydney", "Tokyo", "Tunis", "Vienna", "Warsaw",
)  # fmt: skip


class Question(NamedTuple):
    """A drawn value, before a language answers it.

    Attributes:
      text: the input after the language, such as "full date: 2037-07-15 Wed".
      answer: writes the value in a language's way; None where CLDR has no rule for it.
    """

    text: str
    answer: Callable[[Locale], str | None]


def _date(draws: Draws) -> Question:
    style = draws.of(("full", "long", "medium", "short"))
    day = _FIRST_DAY + datetime.timedelta(days=draws.below(_NUM_DAYS))
    weekday = f" {_WEEKDAYS[day.weekday()]}" if style == "full" else ""
    text = f"{style} date: {day.isoformat()}{weekday}"
    return Question(text, lambda locale: dates.format_date(day, style, locale))


def _time(draws: Draws) -> Question:
    style = draws.of(("medium", "short"))
    time = datetime.time(draws.below(24), draws.below(60), draws.below(60))
    text = time.isoformat() if style == "medium" else time.isoformat()[:5]
    return Question(
        f"{style} time: {text}", lambda locale: dates.format_time(time, style, locale=locale)
    )


def _decimal(draws: Draws, max_digits: int, max_decimals: int) -> str:
    """Draws a number whose count of digits is uniform, so that short ones are not rare."""
    whole = draws.below(10 ** (1 + draws.below(max_digits)))
    decimals = draws.below(max_decimals + 1)
    if not decimals:
        return str(whole)
    # The last digit is not zero: languages would leave it out.
    rest = draws.below(10 ** (decimals - 1)) * 10 + 1 + draws.below(9)
    return f"{whole}.{rest:0{decimals}d}"


def _number(draws: Draws) -> Question:
    sign = "-" if draws.below(8) == 0 else ""
    text = sign + _decimal(draws, max_digits=7, max_decimals=2)
    return Question(
        f"number: {text}", lambda locale: numbers.format_decimal(Decimal(text), locale=locale)
    )


def _percent(draws: Draws) -> Question:
    text = _decimal(draws, max_digits=3, max_decimals=1)

    def answer(locale: Locale) -> str:
        share = Decimal(text) / 100
        return numbers.format_percent(share, locale=locale, decimal_quantization=False)

    return Question(f"percent: {text}", answer)


def _money(draws: Draws) -> Question:
    style = draws.of(("short", "long"))
    currency = draws.of(_CURRENCIES)
    text = str(draws.below(10 ** (1 + draws.below(6))))
    if currency not in _WHOLE_CURRENCIES:
        text += f".{draws.below(100):02d}"
    format_type = "standard" if style == "short" else "name"

    def answer(locale: Locale) -> str | None:
        if currency not in locale.currencies:
            return None
        return numbers.format_currency(
            Decimal(text), currency, locale=locale, format_type=format_type
        )

    return Question(f"{style} money: {text} {currency}", answer)


def _unit(draws: Draws) -> Question:
    style = draws.of(("short", "long"))
    unit = draws.of(_UNITS)
    text = _decimal(draws, max_digits=3, max_decimals=1)

    def answer(locale: Locale) -> str | None:
        value = Decimal(text)
        # babel falls back on the unit's English identifier where CLDR has no pattern, and offers no
        # public way to ask.
        patterns = locale._data["unit_patterns"].get(unit, {}).get(style, {})
        if locale.plural_form(value) not in patterns:
            return None
        return units.format_unit(value, unit, style, locale=locale)

    return Question(f"{style} unit: {text} {unit.split('-', 1)[1]}", answer)


def _list(draws: Draws) -> Question:
    style = draws.of(("and", "or"))
    rest = list(_CITIES)
    names = [rest.pop(draws.below(len(rest))) for _ in range(2 + draws.below(3))]
    list_style = "standard" if style == "and" else "or"
    return Question(
        f"{style} list: {', '.join(names)}",
        lambda locale: lists.format_list(names, list_style, locale),
    )


def _compact(draws: Draws) -> Question:
    style = draws.of(("short", "long"))
    number = (1 + draws.below(999)) * 10 ** (3 + draws.below(4))

    def answer(locale: Locale) -> str | None:
        if style not in locale.compact_decimal_formats:
            return None
        return numbers.format_compact_decimal(
            number, format_type=style, locale=locale, fraction_digits=2
        )

    return Question(f"{style} compact: {number}", answer)


def _relative(draws: Draws) -> Question:
    unit = draws.of(tuple(_SECONDS))
    count = 1 + draws.below(60)
    past = draws.below(2) == 0
    seconds = count * _SECONDS[unit] * (-1 if past else 1)

    def answer(locale: Locale) -> str | None:
        # An unreachable threshold keeps babel from changing to a larger unit.
        return dates.format_timedelta(
            datetime.timedelta(seconds=seconds),
            granularity=unit,
            threshold=float("inf"),
            add_direction=True,
            locale=locale,
        )

    text = f"{count} {unit} ago" if past else f"in {count} {unit}"
    return Question(f"relative: {text}", answer)


# How often each kind is drawn, relative to the others.
_WEIGHTS: dict[str, int] = {
    "date": 3, "number": 2, "money": 2, "unit": 2, "list": 2,
    "relative": 2, "time": 1, "percent": 1, "compact": 1,
}  # fmt: skip
_DRAW: dict[str, Callable[[Draws], Question]] = {
    "date": _date, "number": _number, "money": _money, "unit": _unit, "list": _list,
    "relative": _relative, "time": _time, "percent": _percent, "compact": _compact,
}  # fmt: skip
KINDS: tuple[str, ...] = tuple(_WEIGHTS)


@functools.cache
def _locale(language: str) -> Locale:
    return Locale.parse(language)


@dataclasses.dataclass(frozen=True)
class FormatSettings:
    """What `format_examples` draws from.

    Attributes:
      languages: CLDR locales, such as "de", "pt_PT" or "sr_Latn"; more of them are harder to learn
        in the same number of steps.
      kinds: kinds of examples, of `KINDS`.
      num_draws: examples drawn for all splits together; what repeats or is too long is left out.
      max_input_bytes: longest input kept, in UTF-8 bytes.
      max_target_bytes: longest target kept, in UTF-8 bytes.
      seed: another seed draws other values.

    Raises:
      ValueError: at construction, for a language or kind that is not known, or a number below 1.
    """

    languages: tuple[str, ...] = DEFAULT_LANGUAGES
    kinds: tuple[str, ...] = KINDS
    num_draws: int = 500_000
    max_input_bytes: int = examples.MAX_INPUT_BYTES
    max_target_bytes: int = examples.MAX_TARGET_BYTES
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("languages", "kinds"):  # gin gives lists
            object.__setattr__(self, field, tuple(getattr(self, field)))
            examples.check_not_empty("FormatSettings", field, getattr(self, field))
        for field in ("num_draws", "max_input_bytes", "max_target_bytes"):
            examples.check_positive("FormatSettings", field, getattr(self, field))
        for language in self.languages:
            try:
                _locale(language)
            except (UnknownLocaleError, ValueError):
                raise ValueError(
                    f"FormatSettings.languages: CLDR has no language {language!r}; use locale "
                    f"names such as {', '.join(DEFAULT_LANGUAGES[:4])} or sr_Latn"
                ) from None
        examples.check_kinds("FormatSettings", self.kinds, KINDS)


def format_examples(split: str, settings: FormatSettings | None = None) -> Iterator[Example]:
    """Draws the examples of one split, each input once, the same in every process.

    Args:
      split: "train", "validation" or "test".
      settings: what to draw from; the defaults if None.

    Yields:
      Examples in an order that mixes languages and kinds.

    Raises:
      ValueError: if there is no such split.
    """
    examples.check_split(split)
    settings = settings or FormatSettings()
    bag = [kind for kind in settings.kinds for _ in range(_WEIGHTS[kind])]
    seen: set[int] = set()
    for index in range(settings.num_draws):
        draws = Draws(settings.seed, index)
        language = draws.of(settings.languages)
        kind = draws.of(bag)
        question = _DRAW[kind](draws)
        inputs = f"{language} {question.text}"
        # The cheap refusals come first: most draws for a small split end here.
        key = examples.digest(inputs)
        if examples.split_of_digest(key) != split or key in seen:
            continue
        seen.add(key)
        targets = question.answer(_locale(language))
        if targets and examples.fits(
            inputs, targets, settings.max_input_bytes, settings.max_target_bytes
        ):
            yield Example(inputs, targets, language, kind)
