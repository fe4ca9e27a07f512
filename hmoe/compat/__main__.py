"""Runs a command of T5 or Mesh TensorFlow with the stand-ins in place.

``python -m hmoe.compat t5.models.mesh_transformer_main --module_import=hmoe.t5 ...`` is T5's own
command, which by itself stops at its first import under a TensorFlow later than 2.12.
"""

from __future__ import annotations

import runpy
import sys
from typing import List

from hmoe import compat


def main(arguments: List[str]) -> None:
    """Runs the module named first, with the rest as its command line.

    Args:
        arguments: a module's name, then its own arguments.

    Raises:
        SystemExit: no module is named.
    """
    if not arguments:
        raise SystemExit("usage: python -m hmoe.compat MODULE [ARGUMENT ...]")
    compat.install()
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
