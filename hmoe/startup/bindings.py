"""The bindings of a gin configuration as text, without binding anything.

Gin keeps one configuration in a process. This module reads another one beside it, such as the one
that a run was trained with, so that the two can be compared.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

from gin import config_parser

_MACRO = re.compile(r"%([\w./]+)")
# Macros may contain macros, to this depth; a circle of them, which gin cannot read, ends there.
_MAX_DEPTH = 20


class BindingName(NamedTuple):
    """The name of a binding.

    Attributes:
      scope: scopes such as "outer", or "".
      configurable: the configurable's name without modules, of which gin writes as few as it needs.
      argument: the argument.
    """

    scope: str
    configurable: str
    argument: str

    def __str__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        # As every gin file of T5 has it.
        module = "utils." if self.configurable == "run" else ""
        return f"{scope}{module}{self.configurable}.{self.argument}"


@dataclasses.dataclass(frozen=True)
class Bindings:
    """The bindings of a configuration.

    Attributes:
      values: the value of each binding as text, in which macros stand as they were written.
      macros: the value of each macro as text.
    """

    values: dict[BindingName, str]
    macros: dict[str, str]

    def resolved(self, text: str) -> str:
        """Returns the text of a value with the values of macros in their places."""
        for _ in range(_MAX_DEPTH):
            if not _MACRO.search(text):
                break
            text = _MACRO.sub(lambda match: self.macros.get(match[1], f"?{match[1]}"), text)
        return text

    def macros_in(self, text: str) -> Iterator[str]:
        """Yields the macros whose values a value contains, those in other macros among them."""
        for _ in range(_MAX_DEPTH):
            names = _MACRO.findall(text)
            if not names:
                return
            yield from names
            text = " ".join(self.macros.get(name, "") for name in names)


class _Written:
    """A macro or reference, which a list of values prints as it is written."""

    def __init__(self, text: str):
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _AsWritten(config_parser.ParserDelegate):
    """Makes texts of references and macros, which need not exist."""

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> _Written:
        scope, _, name = scoped_name.rpartition("/")
        scope = f"{scope}/" if scope else ""
        return _Written(f"@{scope}{_last_parts(name)}{'()' if evaluate else ''}")

    def macro(self, name: str) -> _Written:
        return _Written(f"%{name}")


def _last_parts(name: str) -> str:
    """Returns the name of a configurable without its modules; a method keeps its class."""
    parts = name.split(".")
    is_method = len(parts) > 1 and parts[-2][:1].isupper()
    return ".".join(parts[-2:] if is_method else parts[-1:])


def parse(text: str) -> Bindings:
    """Reads the text of a configuration, in which no other file is included.

    Raises:
      SyntaxError: the text is not gin.
    """
    found = Bindings({}, {})
    for statement in config_parser.ConfigParser(text, _AsWritten()):
        if not isinstance(statement, config_parser.BindingStatement):
            continue
        value = repr(statement.value)
        if statement.arg_name:
            name = _last_parts(statement.selector)
            found.values[BindingName(statement.scope or "", name, statement.arg_name)] = value
        else:
            scope = f"{statement.scope}/" if statement.scope else ""
            found.macros[f"{scope}{statement.selector}"] = value
    return found
