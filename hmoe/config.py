"""Configuration classes: frozen, keyword-only dataclasses that document and check their fields.

Each argument of a class is written in one place, its field, with its default, unit, source, meaning
and validator. `docs/reference.md` is written from these fields.
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from hmoe import checks

if sys.version_info >= (3, 11):
    from typing import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable:  # noqa: D103
        return lambda decorator: decorator


_Class = TypeVar("_Class", bound=type)
_KEY = "hmoe"

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field of a configuration class stands for.

    Attributes:
      doc: what the argument does, in whole sentences or a noun phrase.
      unit: what it is counted in, or the values that it may have.
      source: the paper, library or argument that it is taken from.
      check: called as check(where, field, value); returns the value to keep, or raises ValueError.
    """

    doc: str
    unit: str
    source: str
    check: checks.Check

    def __post_init__(self) -> None:
        """Joins the lines of the description."""
        object.__setattr__(self, "doc", " ".join(self.doc.split()))


def setting(
    default: Any = REQUIRED, *, doc: str, unit: str, source: str, check: checks.Check
) -> Any:
    """Returns a field of a configuration class; the arguments are those of `Setting`."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(doc, unit, source, check)})


def choice(default: str | None, values: Sequence[str], *, doc: str, source: str) -> Any:
    """Returns a field that holds one of a few words, or None where that is the default."""
    unit = "one of " + ", ".join(f'`"{value}"`' for value in values)
    check = checks.one_of(values)
    if default is None:
        unit, check = f"{unit}; or `None`", checks.optional(check)
    return setting(default, doc=doc, unit=unit, source=source, check=check)


def switch(default: bool, *, doc: str, source: str) -> Any:
    """Returns a field that holds True or False."""
    return setting(default, doc=doc, unit="true or false", source=source, check=checks.boolean)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configuration(
    *, defaults: dict[str, Any] | None = None, without: Collection[str] = ()
) -> Callable[[_Class], _Class]:
    """Makes a class a frozen, keyword-only dataclass with documented and checked fields.

    Args:
      defaults: other defaults for inherited fields.
      without: inherited fields that the class holds at their defaults and takes no argument for.

    Returns:
      A decorator for subclasses of `Configuration`.
    """

    def decorate(cls: _Class) -> _Class:
        inherited = {field.name: field for field in settings(cls)}
        for name in {**dict.fromkeys(without), **(defaults or {})}:
            field = inherited[name]
            default, takes = (defaults or {}).get(name, field.default), name not in without
            setattr(
                cls,
                name,
                dataclasses.field(
                    default=default, metadata={_KEY: described(cls, name)}, init=takes, repr=takes
                ),
            )
            cls.__annotations__[name] = field.type
        made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        made.__doc__ = (made.__doc__ or "").rstrip() + _attributes(made)
        return made

    return decorate


class Configuration:
    """Base of configuration classes: checks each field, then what fields mean together."""

    def __post_init__(self) -> None:
        """Keeps what the validators return.

        Raises:
          ValueError: a field is out of its range, or two fields contradict each other.
        """
        for field in settings(type(self)):
            value = described(type(self), field.name).check(
                self.error_prefix(), field.name, getattr(self, field.name)
            )
            # The one way to set a field of a frozen dataclass.
            object.__setattr__(self, field.name, value)
        self.check_together()

    def error_prefix(self) -> str:
        """Returns how errors name the object."""
        return type(self).__name__

    def check_together(self) -> None:
        """Raises ValueError for fields that contradict each other."""


def settings(cls: type) -> list[dataclasses.Field]:
    """Returns the documented fields of a class, in the order of its arguments."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return [field for field in fields if _described(cls, field.name)]


def described(cls: type, name: str) -> Setting:
    """Returns what a documented field of a class stands for."""
    found = _described(cls, name)
    if found is None:
        raise ValueError(f"{cls.__name__}.{name} is not documented by a field")
    return found


def _described(cls: type, name: str) -> Setting | None:
    # A user's subclass may give a field another default, without its description.
    for base in cls.__mro__:
        field = vars(base).get("__dataclass_fields__", {}).get(name)
        if field is not None and _KEY in field.metadata:
            return field.metadata[_KEY]
    return None


def _attributes(cls: type) -> str:
    """Returns the section of a docstring that describes the arguments of a class."""
    entries = [
        textwrap.fill(
            f"{field.name}: {described(cls, field.name).doc}",
            width=96,
            initial_indent="      ",
            subsequent_indent="        ",
        )
        for field in settings(cls)
        if field.init
    ]
    return "\n\n    Attributes:\n" + "\n".join(entries) + "\n    "
