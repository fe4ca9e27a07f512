"""Parses text in gin's language into statements, in which macros and references stay symbols.

Gin itself parses only what it can look up, which needs TensorFlow.
"""

from __future__ import annotations

import dataclasses
import re
import tokenize
from collections.abc import Iterator

from gin import config_parser


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a statement stands.

    Attributes:
      source: path of the file, or the flag and its text.
      line: number of the line from 1; None for a flag.
      own: whether a user wrote it, rather than a package.
    """

    source: str
    line: int | None = None
    own: bool = True

    def __str__(self) -> str:
        """Formats the place for a message."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Macro:
    """A macro that a value refers to, such as `%batch_size`."""

    name: str

    def __repr__(self) -> str:
        """Formats it as gin does."""
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A configurable that a value refers to, such as `@outer/hmoe.Level()`.

    Attributes:
      scope: the scope that it is called in, such as "outer"; "" for the one around it.
      selector: name of the configurable, such as "hmoe.Level".
      evaluate: whether its result is the value; it has brackets then.
    """

    scope: str
    selector: str
    evaluate: bool

    def __repr__(self) -> str:
        """Formats it as gin does."""
        brackets = "()" if self.evaluate else ""
        return f"@{self.scope}{'/' * bool(self.scope)}{self.selector}{brackets}"


@dataclasses.dataclass(frozen=True)
class Binding:
    """A value for an argument, such as `outer/hmoe.Level.num_experts = 4`, or for a macro.

    Attributes:
      place: where it stands.
      scope: the scope that it holds in; "" for all.
      selector: name of the configurable.
      argument: name of the argument; "" for a macro, whose name is scope and selector.
      value: a literal, whose parts may be a `Macro` or a `Reference`.
    """

    place: Place
    scope: str
    selector: str
    argument: str
    value: object

    @property
    def is_macro(self) -> bool:
        """Whether this defines a macro."""
        return not self.argument

    @property
    def name(self) -> str:
        """The left side, as gin would print it."""
        scoped = f"{self.scope}/{self.selector}" if self.scope else self.selector
        return f"{scoped}.{self.argument}" if self.argument else scoped


@dataclasses.dataclass(frozen=True)
class Import:
    """A module that gin is asked to import."""

    place: Place
    module: str


@dataclasses.dataclass(frozen=True)
class Include:
    """A file that stands in place of this statement."""

    place: Place
    path: str


Statement = Binding | Import | Include


class _Symbols(config_parser.ParserDelegate):
    """Leaves macros and references as they are."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(scope, selector, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def parse(text: str, source: str, *, own: bool = True, is_file: bool = True) -> Iterator[Statement]:
    """Yields the statements of a text.

    Args:
      text: statements, in gin's language.
      source: path of the file, or the flag and its text, for messages.
      own: whether a user wrote it.
      is_file: whether messages have the number of the line.

    Raises:
      ValueError: the text is not gin; the message has the place and the line's text.
    """
    line = 1
    try:
        parser = config_parser.ConfigParser(text, _Symbols())
        while (statement := parser.parse_statement()) is not None:
            line = statement.location.line_num
            found = _converted(statement, Place(source, line if is_file else None, own))
            if found is not None:
                yield found
    except SyntaxError as error:
        # At the end of a text, versions of Python disagree about the number of the line.
        lines = text.split("\n")
        line = min(error.lineno or line, len(lines))
        bad = Place(source, line if is_file else None)
        raise ValueError(f"{bad}: {_explained(error, lines[line - 1])}") from None
    except tokenize.TokenError:
        bad = Place(source, line if is_file else None)
        raise ValueError(
            f"{bad}: this or the next statement has no end; a bracket or quote is left open"
        ) from None
    except (StopIteration, RecursionError, TypeError, ValueError, IndexError) as error:
        bad = Place(source, line if is_file else None)
        raise ValueError(
            f"{bad}: this or the next statement is not gin ({type(error).__name__}: {error})"
        ) from None


def _converted(statement: object, place: Place) -> Statement | None:
    """Returns a statement of gin's parser as one of ours; None for one that binds nothing."""
    if isinstance(statement, config_parser.BindingStatement):
        scope, selector, argument, value, _ = statement
        if argument == "value" and selector in ("macro", "gin.macro") and scope:
            # What gin makes of `%name` can be written out.
            scope, _, selector = scope.rpartition("/")
            argument = ""
        return Binding(place, scope, selector, argument, value)
    if isinstance(statement, config_parser.ImportStatement):
        is_module = not statement.module.startswith("__gin__.")
        return Import(place, statement.module) if is_module else None
    if isinstance(statement, config_parser.IncludeStatement):
        return Include(place, statement.filename)
    return None


def _explained(error: SyntaxError, line: str) -> str:
    """Returns gin's message, with the line that it is about."""
    problem = " ".join(str(error.msg).split())
    token = re.search(r"Failed to parse token '(.*)'$", problem)
    if token:
        # Gin prints an object of Python's parser.
        problem = f"{token[1]!r} is no value; a text needs quotes."
    return f"{problem} The line: {line.strip()}"
