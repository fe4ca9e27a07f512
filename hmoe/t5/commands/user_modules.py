"""Imports the modules that a user names, and reports one that fails as what it is.

Gin itself passes over an import that fails, as T5's command lets it, and then knows nothing that
the module defines.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Sequence

from hmoe.startup import gin_reading
from hmoe.startup.gin_checks import imports


def import_all(modules: Sequence[str]) -> None:
    """Imports the modules of `--module_import`.

    Raises:
      ValueError: one of them fails.
    """
    for module in modules:
        _import(module, "--module_import")


def import_those_of_gin(reading: gin_reading.Reading) -> None:
    """Imports the modules of the user's own that gin files import.

    Raises:
      ValueError: one of them fails; the message names the line of gin that imports it.
    """
    for each in imports.foreign(reading.imports):
        _import(each.module, f"{each.place}: import")


def _import(module: str, shown: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if "importlib" in last.filename else f" ({last.filename}:{last.lineno})"
        raise ValueError(
            f"{shown} {module!r} fails: {type(error).__name__}: {error}{where}"
        ) from error
