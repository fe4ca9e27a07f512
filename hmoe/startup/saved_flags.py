"""Flags that training keeps in a model's folder, as far as checks before TensorFlow need them."""

from __future__ import annotations

import dataclasses

from hmoe.startup import run_sources, saved_run
from hmoe.startup.request import Request, frozen

# Flags without which a saved configuration cannot be read.
_NAMES = (
    "module_import",
    "gin_location_prefix",
    "additional_deprecated_gin_references",
    "skip_all_gin_unknowns",
)


def fill_in(request: Request) -> Request:
    """Returns a request with saved flags in place of those that are not given.

    A request that does not use the saved configuration stays as it is.

    Raises:
      ValueError: a model has no configuration, or a damaged one.
    """
    sources = run_sources.of(request)
    saved = saved_run.read(request.model_dir) if sources and sources.saved else None
    if saved is None:
        return request
    missing = {
        name: frozen(saved.flags[name])
        for name in _NAMES
        if saved.flags.get(name) and not getattr(request, name)
    }
    return dataclasses.replace(request, **missing)
