"""The versions of what trains a model."""

from __future__ import annotations

import functools
import platform

from hmoe.compat.internals import installed_version
from hmoe.version import __version__

_PACKAGES = ("tensorflow", "mesh_tensorflow", "t5")


@functools.cache
def _of_packages() -> dict[str, str]:
    return {name: installed_version(name) for name in _PACKAGES}


def installed_versions() -> dict[str, str]:
    """Returns the version of hmoe, of the packages that it trains with, and of Python, by name."""
    return {"hmoe": __version__, **_of_packages(), "python": platform.python_version()}
