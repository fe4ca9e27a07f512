"""Reads gin files with all that they include, without TensorFlow and without importing anything."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence

from hmoe.startup import gin_files
from hmoe.startup.gin_statements import (
    Binding,
    Import,
    Include,
    Macro,
    Place,
    Reference,
    Statement,
    parse,
)
from hmoe.storage.local_files import is_elsewhere

# What a macro leads to that nothing defines, or that leads back to itself.
_MAX_DEPTH = 50


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A value behind macros.

    Attributes:
      place: where the literal stands.
      name: what it is bound to there: the last macro, or the argument itself.
      value: the value; a `Macro` if nothing defines it.
    """

    place: Place
    name: str
    value: object


class Reading:
    """The statements of a configuration, in the order in which they take effect."""

    def __init__(self, statements: Sequence[Statement], *, whole: bool = True):
        """Keeps the statements.

        Args:
          statements: all of them, with those of included files in place of the include.
          whole: whether all files could be read; those on other machines cannot.
        """
        self.statements = list(statements)
        self.whole = whole

    @property
    def bindings(self) -> list[Binding]:
        """All bindings, also those that later ones replace."""
        return [each for each in self.statements if isinstance(each, Binding)]

    @property
    def imports(self) -> list[Import]:
        """All imports."""
        return [each for each in self.statements if isinstance(each, Import)]

    @functools.cached_property
    def macros(self) -> dict[str, Binding]:
        """The last definition of each macro."""
        return {each.name: each for each in self.bindings if each.is_macro}

    @functools.cached_property
    def effective(self) -> list[Binding]:
        """The bindings of arguments that no later one replaces."""
        full = _longest_names({each.selector for each in self.bindings if not each.is_macro})
        last = {
            (each.scope, full[each.selector], each.argument): each
            for each in self.bindings
            if not each.is_macro
        }
        return list(last.values())

    def bound(self, argument: str) -> Binding | None:
        """Returns the binding of an argument outside of scopes.

        Args:
          argument: its full name, such as "mesh_tensorflow.transformer.utils.run.mode".
        """
        found = None
        for each in self.effective:
            if not each.scope and is_argument(each, argument):
                found = each
        return found

    def resolve(self, binding: Binding, value: object = None) -> Resolved:
        """Follows macros to a value.

        Args:
          binding: the binding, for the place and the name of what is no macro.
          value: a part of the binding's value; the whole by default.
        """
        found = Resolved(binding.place, binding.name, binding.value if value is None else value)
        for _ in range(_MAX_DEPTH):
            macro = found.value
            if not isinstance(macro, Macro) or macro.name not in self.macros:
                return found
            definition = self.macros[macro.name]
            found = Resolved(definition.place, definition.name, definition.value)
        raise ValueError(f"{found.place}: the macro {found.name} refers to itself")

    def literal(self, argument: str, default: object = None) -> object:
        """Returns the value of an argument, or a default where it is unbound or no literal."""
        binding = self.bound(argument)
        value = self.resolve(binding).value if binding else default
        return default if is_symbolic(value) else value


def is_argument(binding: Binding, full_name: str) -> bool:
    """Returns whether a binding is of an argument; gin lets leading modules be left out."""
    if binding.is_macro:
        return False
    return f".{full_name}".endswith(f".{binding.selector}.{binding.argument}")


def parts(value: object) -> Iterator[object]:
    """Yields a value and all values in it."""
    yield value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from parts(key)
            yield from parts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from parts(each)


def is_symbolic(value: object) -> bool:
    """Returns whether gin has to evaluate something to know a value."""
    return any(isinstance(each, (Macro, Reference)) for each in parts(value))


def _longest_names(selectors: set[str]) -> dict[str, str]:
    """Returns for each selector the longest that ends with it."""
    by_length = sorted(selectors, key=lambda each: (-len(each), each))
    return {
        each: next(long for long in by_length if f".{long}".endswith(f".{each}"))
        for each in selectors
    }


class Reader:
    """Reads files from the folders that gin looks in."""

    def __init__(self, prefixes: Sequence[str] = ()):
        """Finds the folders.

        Args:
          prefixes: the folders of `--gin_location_prefix`.
        """
        self._folders = ["", *gin_files.search_folders(prefixes)]
        packages = [*self._folders[len(prefixes) + 1 :], gin_files.mesh_tensorflow_folder()]
        self._shipped = tuple(os.path.join(os.path.abspath(each), "") for each in packages)
        self.whole = True

    def file(
        self, path: str, within: tuple[str, ...] = (), *, own: bool = True
    ) -> Iterator[Statement]:
        """Yields the statements of a file and of those that it includes.

        Args:
          path: path of the file in one of the folders.
          within: the files that include it, the outermost first.
          own: whether a file outside of packages is the user's own.

        Raises:
          ValueError: the file or one of those that it includes is missing, a folder, not in UTF-8
            or not gin, or includes itself.
        """
        if any(map(is_elsewhere, [path, *self._folders])):
            self.whole = False
            return
        found = self._find(path)
        chain = (*within, found)
        if os.path.abspath(found) in map(os.path.abspath, within):
            raise ValueError(f"gin file {found} includes itself: {' -> '.join(chain)}")
        text = gin_files.text(found)
        own = own and not os.path.abspath(found).startswith(self._shipped)
        statements = _parsed(text, found, own)
        if own:
            statements = self._without_copied(statements, os.path.basename(found), text)
        yield from self._with_includes(statements, chain, own)

    def _without_copied(
        self, statements: Iterable[Statement], name: str, text: str
    ) -> tuple[Statement, ...]:
        """Marks what a user's copy of a package's file has from there as not the user's own.

        The package's files are made to be used in parts: not all that they bind is used everywhere.

        Args:
          statements: the statements of the user's file.
          name: its name without folders; a copy that was edited is known by it.
          text: its text; a whole copy is known by it.
        """
        size = len(text.encode("utf-8"))
        copied = {
            _key(each)
            for path, its_size in _files(self._shipped)
            if os.path.basename(path) == name or its_size == size
            for each in _parsed(gin_files.text(path), path, False)
        }
        if not copied:
            return tuple(statements)
        return tuple(
            dataclasses.replace(each, place=dataclasses.replace(each.place, own=False))
            if _key(each) in copied
            else each
            for each in statements
        )

    def _find(self, path: str) -> str:
        """Returns the first file that gin would find under a name."""
        candidates = [os.path.join(folder, path) for folder in self._folders]
        found = next(filter(os.path.exists, candidates), None) or gin_files.in_package(path)
        if found is None:
            gin_files.raise_missing(path, self._folders)
        return found

    def line(self, text: str) -> Iterator[Statement]:
        """Yields the statements of a `--gin_param`."""
        yield from self._with_includes(
            parse(text, f"--gin_param {text!r}", is_file=False), (), True
        )

    def _with_includes(
        self, statements: Iterable[Statement], chain: tuple[str, ...], own: bool
    ) -> Iterator[Statement]:
        for statement in statements:
            if not isinstance(statement, Include):
                yield statement
                continue
            try:
                yield from self.file(statement.path, chain, own=own)
            except gin_files.MissingFileError as error:
                if error.included:
                    raise
                raise gin_files.MissingFileError(
                    f"{statement.place}: {error}", included=True
                ) from None


def _key(statement: Statement) -> str:
    """Returns what a statement says, wherever it stands."""
    return repr(dataclasses.replace(statement, place=Place("")))


@functools.lru_cache(maxsize=4)
def _files(folders: tuple[str, ...]) -> list[tuple[str, int]]:
    """Returns the path and the size in bytes of each gin file in some folders."""
    return [
        (path, os.path.getsize(path))
        for folder in folders
        for where, _, names in os.walk(folder)
        for name in names
        if name.endswith(".gin")
        for path in [os.path.join(where, name)]
    ]


# A command reads its files more than once: to see what run they make, to check, and to import.
@functools.lru_cache(maxsize=256)
def _parsed(text: str, source: str, own: bool) -> tuple[Statement, ...]:
    return tuple(parse(text, source, own=own))


def read(files: Sequence[str], lines: Sequence[str] = (), prefixes: Sequence[str] = ()) -> Reading:
    """Reads gin files, then single lines.

    Args:
      files: gin files, later ones winning.
      lines: lines of gin.
      prefixes: more folders to look in.

    Raises:
      ValueError: a file is missing or cannot be read, or a statement is not gin.
    """
    reader = Reader(prefixes)
    statements = [each for path in files for each in reader.file(path)]
    statements += [each for line in lines for each in reader.line(line)]
    return Reading(statements, whole=reader.whole)
