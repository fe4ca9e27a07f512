"""Random dates, numbers, amounts of money and other values, and how a language writes them.

Each kind of value has a function that draws one. The rules of languages are those of the Unicode
CLDR, as babel carries and applies them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from babel import Locale, dates, lists, numbers, units

from hmoe.t5.data.examples import ExampleRandom

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FIRST_DAY = datetime.date(1900, 1, 1)
_NUM_DAYS = (datetime.date(2100, 1, 1) - _FIRST_DAY).days
_CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CNY", "INR", "BRL", "CHF")
_CURRENCIES_WITHOUT_CENTS = ("JPY",)
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


class Value(NamedTuple):
    """A value in neutral notation, and how languages write it.

    Attributes:
      text: style, kind and value in neutral notation, such as "full date: 2037-07-15 Wed".
      write: returns the value in the form of a locale's language; None where CLDR has no rule.
    """

    text: str
    write: Callable[[Locale], str | None]


def _date(random: ExampleRandom) -> Value:
    style = random.choice(("full", "long", "medium", "short"))
    day = _FIRST_DAY + datetime.timedelta(days=random.integer(_NUM_DAYS))
    weekday = f" {_WEEKDAYS[day.weekday()]}" if style == "full" else ""
    text = f"{style} date: {day.isoformat()}{weekday}"
    return Value(text, lambda locale: dates.format_date(day, style, locale))


def _time(random: ExampleRandom) -> Value:
    style = random.choice(("medium", "short"))
    time = datetime.time(random.integer(24), random.integer(60), random.integer(60))
    text = time.isoformat() if style == "medium" else time.isoformat()[:5]
    return Value(
        f"{style} time: {text}", lambda locale: dates.format_time(time, style, locale=locale)
    )


def _decimal(random: ExampleRandom, max_digits: int, max_decimals: int) -> str:
    """Draws a number whose count of digits is uniform, so that short numbers are not rare."""
    whole = random.integer(10 ** (1 + random.integer(max_digits)))
    decimals = random.integer(max_decimals + 1)
    if not decimals:
        return str(whole)
    # The last digit is not zero, since languages would leave it out.
    rest = random.integer(10 ** (decimals - 1)) * 10 + 1 + random.integer(9)
    return f"{whole}.{rest:0{decimals}d}"


def _number(random: ExampleRandom) -> Value:
    sign = "-" if random.integer(8) == 0 else ""
    text = sign + _decimal(random, max_digits=7, max_decimals=2)
    return Value(
        f"number: {text}", lambda locale: numbers.format_decimal(Decimal(text), locale=locale)
    )


def _percent(random: ExampleRandom) -> Value:
    text = _decimal(random, max_digits=3, max_decimals=1)

    def write(locale: Locale) -> str:
        share = Decimal(text) / 100
        return numbers.format_percent(share, locale=locale, decimal_quantization=False)

    return Value(f"percent: {text}", write)


def _money(random: ExampleRandom) -> Value:
    style = random.choice(("short", "long"))
    currency = random.choice(_CURRENCIES)
    text = str(random.integer(10 ** (1 + random.integer(6))))
    if currency not in _CURRENCIES_WITHOUT_CENTS:
        text += f".{random.integer(100):02d}"
    format_type = "standard" if style == "short" else "name"

    def write(locale: Locale) -> str | None:
        if currency not in locale.currencies:
            return None
        return numbers.format_currency(
            Decimal(text), currency, locale=locale, format_type=format_type
        )

    return Value(f"{style} money: {text} {currency}", write)


def _unit(random: ExampleRandom) -> Value:
    style = random.choice(("short", "long"))
    unit = random.choice(_UNITS)
    text = _decimal(random, max_digits=3, max_decimals=1)

    def write(locale: Locale) -> str | None:
        value = Decimal(text)
        # Where CLDR has no pattern, babel falls back on the unit's English identifier, and has no
        # public way to find out.
        patterns = locale._data["unit_patterns"].get(unit, {}).get(style, {})
        if locale.plural_form(value) not in patterns:
            return None
        return units.format_unit(value, unit, style, locale=locale)

    return Value(f"{style} unit: {text} {unit.split('-', 1)[1]}", write)


def _list(random: ExampleRandom) -> Value:
    style = random.choice(("and", "or"))
    rest = list(_CITIES)
    names = [rest.pop(random.integer(len(rest))) for _ in range(2 + random.integer(3))]
    list_style = "standard" if style == "and" else "or"
    return Value(
        f"{style} list: {', '.join(names)}",
        lambda locale: lists.format_list(names, list_style, locale),
    )


def _compact(random: ExampleRandom) -> Value:
    style = random.choice(("short", "long"))
    number = (1 + random.integer(999)) * 10 ** (3 + random.integer(4))

    def write(locale: Locale) -> str | None:
        if style not in locale.compact_decimal_formats:
            return None
        return numbers.format_compact_decimal(
            number, format_type=style, locale=locale, fraction_digits=2
        )

    return Value(f"{style} compact: {number}", write)


def _relative(random: ExampleRandom) -> Value:
    unit = random.choice(tuple(_SECONDS))
    count = 1 + random.integer(60)
    past = random.integer(2) == 0
    seconds = count * _SECONDS[unit] * (-1 if past else 1)

    def write(locale: Locale) -> str | None:
        # With a threshold that no value reaches, babel does not change to a larger unit.
        return dates.format_timedelta(
            datetime.timedelta(seconds=seconds),
            granularity=unit,
            threshold=float("inf"),
            add_direction=True,
            locale=locale,
        )

    text = f"{count} {unit} ago" if past else f"in {count} {unit}"
    return Value(f"relative: {text}", write)


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
      weight: how often it is drawn, relative to the other kinds.
      draw: draws a value.
    """

    weight: int
    draw: Callable[[ExampleRandom], Value]


KINDS: dict[str, Kind] = {
    "date": Kind(3, _date),
    "number": Kind(2, _number),
    "money": Kind(2, _money),
    "unit": Kind(2, _unit),
    "list": Kind(2, _list),
    "relative": Kind(2, _relative),
    "time": Kind(1, _time),
    "percent": Kind(1, _percent),
    "compact": Kind(1, _compact),
}
