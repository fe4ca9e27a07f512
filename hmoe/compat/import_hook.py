"""Lets `import mesh_tensorflow` work after `import hmoe`, at no cost to those who do not import it.

Mesh TensorFlow does not import under today's TensorFlow before `hmoe.compat.install` has run, which
in turn imports TensorFlow. So `import hmoe` only registers a finder, which arranges that `install`
runs when one of the modules that need it is about to be executed.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

from hmoe import compat

# The modules whose import needs the stand-ins; importing any part of them imports these first.
NEED_STAND_INS = ("mesh_tensorflow", "t5.models")


class StandInsFirst(MetaPathFinder):
    """Finds the modules that need stand-ins as Python would, and installs these first.

    Looking for a module without importing it, as `importlib.util.find_spec` does, installs nothing.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Returns the spec that the other finders have, or None for any other module."""
        if fullname not in NEED_STAND_INS:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, StandInsFirst) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                _install_before(spec)
                return spec
        return None


def _install_before(spec: ModuleSpec) -> None:
    """Makes the loader of a spec call `hmoe.compat.install` before it executes the module."""
    loader = spec.loader
    if loader is None:
        return
    execute = loader.exec_module

    def exec_module(module: types.ModuleType) -> None:
        # From here on the loader is as it was: others look at it, such as `importlib.resources`.
        loader.__dict__.pop("exec_module", None)
        compat.install()
        execute(module)

    # The loader itself and not one around it, since `pkg_resources` goes by its class.
    loader.__dict__["exec_module"] = exec_module


def register() -> None:
    """Registers the finder with Python's imports, once."""
    if not any(isinstance(finder, StandInsFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, StandInsFirst())
