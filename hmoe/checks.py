"""Checks of arguments, with errors that name the field and the value.

Numbers may be Python's or NumPy's, and come back as Python's.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

# Called as check(where, field, value): returns the value to keep, or raises ValueError.
Check = Callable[[str, str, Any], Any]


def positive_int(where: str, field: str, value: Any) -> int:
    """Returns `value` if it is an integer of at least 1."""
    if not _is_integer(value) or value < 1:
        raise ValueError(f"{where}: {field} is {value!r}; it must be an integer of at least 1")
    return int(value)


def non_negative_int(where: str, field: str, value: Any) -> int:
    """Returns `value` if it is an integer of at least 0."""
    if not _is_integer(value) or value < 0:
        raise ValueError(f"{where}: {field} is {value!r}; it must be an integer of at least 0")
    return int(value)


def positive_number(where: str, field: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite number above 0."""
    if not _is_finite_number(value) or value <= 0:
        raise ValueError(f"{where}: {field} is {value!r}; it must be a finite number above 0")
    return _as_float(value)


def at_least_one(where: str, field: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite number of at least 1."""
    if not _is_finite_number(value) or value < 1:
        raise ValueError(f"{where}: {field} is {value!r}; it must be a finite number of at least 1")
    return _as_float(value)


def non_negative_number(where: str, field: str, value: Any) -> float:
    """Returns `value` as a float if it is a finite number of at least 0."""
    if not _is_finite_number(value) or value < 0:
        raise ValueError(f"{where}: {field} is {value!r}; it must be a finite number of at least 0")
    return _as_float(value)


def fraction(where: str, field: str, value: Any) -> float:
    """Returns `value` as a float if it is in [0, 1)."""
    if not _is_finite_number(value) or not 0 <= value < 1:
        raise ValueError(
            f"{where}: {field} is {value!r}; it must be a number of at least 0 and below 1"
        )
    return _as_float(value)


def probability(where: str, field: str, value: Any) -> float:
    """Returns `value` as a float if it is in [0, 1]."""
    if not _is_finite_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{where}: {field} is {value!r}; it must be a number from 0 to 1")
    return _as_float(value)


def one_of(values: Sequence[str]) -> Check:
    """Returns a check for one of these words."""

    def check(where: str, field: str, value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise ValueError(
                f"{where}: {field} is {value!r}; it must be one of {', '.join(values)}"
            )
        return value

    return check


def optional(check: Check) -> Check:
    """Returns a check that also lets None through."""
    return lambda where, field, value: None if value is None else check(where, field, value)


def part(example: str, accepts: Callable[[Any], bool], *, or_none: bool = False) -> Check:
    """Returns a check for an object that is a part of another.

    Args:
      example: how one is made, such as "hmoe.Gate()".
      accepts: whether a value is such an object.
      or_none: whether None is let through too.
    """

    def check(where: str, field: str, value: Any) -> Any:
        if (or_none and value is None) or accepts(value):
            return value
        # In gin a reference without brackets is the class, not an object.
        raise ValueError(
            f"{where}: {field} is {value!r}; it must be an object such as {example}"
            f"{', or None' if or_none else ''} (in gin: @{example.partition('(')[0]}(), with the"
            " brackets)"
        )

    return check


def boolean(where: str, field: str, value: Any) -> bool:
    """Returns `value` if it is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{where}: {field} is {value!r}; it must be True or False")
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _as_float(value: Any) -> float:
    """A float that prints as the number does: 1.15 of NumPy's float32 is 1.15."""
    return float(value) if isinstance(value, numbers.Rational) else float(str(value))
