"""Names of other packages that this one relies on although nothing promises to keep them.

`hmoe.compat.patches` is the table of them. Each entry says why it is needed, which release it was
written against and what it looked like there, so that a test can compare it with what is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Internal:
    """An attribute of another package that is read or called.

    Attributes:
      package: import name of the package.
      versions: the releases that it was written against, such as "0.1.21".
      module: full name of the module that has it.
      name: path from the module, such as `LayoutRules._pairs`.
      reason: why it is needed, in one sentence.
      used_in: files of the repository to look at when it changes.
      parameters: names of a function's parameters, with commas between and without `self`; None
        for what is not called.
      has: names of attributes that its value must have.
    """

    package: str
    versions: str
    module: str
    name: str
    reason: str
    used_in: tuple[str, ...]
    parameters: str | None = None
    has: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    def owner(self) -> Any:
        """Returns the module or class that has the attribute, importing the module."""
        found = importlib.import_module(self.module)
        for part in self.name.split(".")[:-1]:
            found = getattr(found, part)
        return found

    def mismatch(self, owner: object = None) -> str | None:
        """Compares the installed package with this entry.

        Args:
          owner: an object that has the attribute; by default the module or class that has it,
            but some attributes exist on instances only.

        Returns:
          A sentence with both shapes and the files to look at, or None if they agree.
        """
        wanted = self._described(self.parameters, self.has)
        found = self._installed(owner)
        if found == wanted:
            return None
        return (
            f"{self.package} {self.versions} had {wanted}; the installed "
            f"{installed_version(self.package)} has {found}: look at {', '.join(self.used_in)}"
        )

    def _installed(self, owner: object) -> str:
        try:
            value = getattr(self.owner() if owner is None else owner, self.attribute)
        except (ImportError, AttributeError):
            return f"no {self.module}.{self.name}"
        parameters = None
        if self.parameters is not None and callable(value):
            names = inspect.signature(value).parameters
            parameters = ", ".join(name for name in names if name != "self")
        return self._described(parameters, tuple(each for each in self.has if hasattr(value, each)))

    def _described(self, parameters: str | None, has: tuple[str, ...]) -> str:
        call = "" if parameters is None else f"({parameters})"
        return f"{self.module}.{self.name}{call}" + (f" with {', '.join(has)}" if has else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patch(Internal):
    """An attribute of another package that is replaced, or added where it is missing."""

    @contextlib.contextmanager
    def replaced_by(self, value: object, on: object = None) -> Iterator[None]:
        """Replaces the attribute for as long as the context is open.

        Args:
          value: what stands in its place.
          on: the one object to replace it on; by default the module or class that has it.
        """
        owner = self.owner() if on is None else on
        before = getattr(owner, self.attribute)
        # A method that an object has from its class is uncovered again, not made its own. Some
        # objects, such as graphs of TensorFlow 2.21, have no dictionary that would tell.
        is_of_class = inspect.ismethod(before) and not inspect.isclass(before.__self__)
        setattr(owner, self.attribute, value)
        try:
            yield
        finally:
            if is_of_class:
                delattr(owner, self.attribute)
            else:
                setattr(owner, self.attribute, before)

    def replace(self, value: object) -> None:
        """Replaces the attribute for the rest of the process."""
        setattr(self.owner(), self.attribute, value)

    def add_if_missing(self, make: Callable[[], object]) -> None:
        """Adds the attribute where the installed package has none.

        Args:
          make: returns the value; called only if it is needed.
        """
        if not hasattr(self.owner(), self.attribute):
            self.replace(make())


# Looks through all that is installed, which takes a tenth of a second.
_distributions = functools.cache(importlib.metadata.packages_distributions)


def installed_version(package: str) -> str:
    """Returns the version of the distribution that brings a package, by its import name."""
    names = _distributions().get(package, ())
    versions = [importlib.metadata.version(name) for name in dict.fromkeys(names)]
    return " or ".join(dict.fromkeys(versions)) or "version"
