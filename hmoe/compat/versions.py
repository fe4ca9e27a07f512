"""The versions of what trains a model."""

from __future__ import annotations

import platform

from hmoe.compat.internals import installed_version
from hmoe.version import __version__

_PACKAGES = ("tensorflow", "mesh_tensorflow", "t5")


def installed_versions() -> dict[str, str]:
    """Returns the version of hmoe, of the packages that it trains with, and of Python, by name."""
    packages = {name: installed_version(name) for name in _PACKAGES}
    return {"hmoe": __version__, **packages, "python": platform.python_version()}
