"""Flags that training keeps in a model's folder, as far as checks before TensorFlow need them."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from hmoe.startup import run_sources
from hmoe.startup.request import Request, frozen

FLAGS_FILE = "run.json"
# Flags without which a saved configuration cannot be read.
_LISTS = ("module_import", "gin_location_prefix", "additional_deprecated_gin_references")
_SWITCHES = ("skip_all_gin_unknowns",)


def fill_in(request: Request) -> Request:
    """Returns a request with saved flags in place of those that are not given.

    A request that does not use the saved configuration stays as it is. So does one beside a file
    that is damaged: whoever reads the file for its sake says what is wrong with it.

    Raises:
      ValueError: a model has no configuration.
    """
    sources = run_sources.of(request)
    if sources is None or not sources.saved:
        return request
    flags = _read(request.model_dir)
    missing = {name: value for name, value in flags.items() if not getattr(request, name)}
    return dataclasses.replace(request, **missing)


def _read(folder: str) -> dict[str, Any]:
    """Returns the flags that are of their types."""
    try:
        with open(os.path.join(folder, FLAGS_FILE), encoding="utf-8") as file:
            flags = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(flags, dict):
        return {}
    lists = {name: frozen(flags[name]) for name in _LISTS if _is_list_of_texts(flags.get(name))}
    switches = {name: flags[name] for name in _SWITCHES if isinstance(flags.get(name), bool)}
    return {**lists, **switches}


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
