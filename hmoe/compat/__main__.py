"""Runs a command of T5 or Mesh TensorFlow with the stand-ins in place.

`python -m hmoe.compat t5.models.mesh_transformer_main --module_import=hmoe.t5 ...` is T5's own
command, which by itself stops at its first import under a TensorFlow later than 2.12.
"""

from __future__ import annotations

import runpy
import sys

from hmoe import compat


def main(arguments: list[str]) -> None:
    """Runs the module named first, with the rest as its command line.

    Args:
      arguments: a module's name, then its own arguments.

    Raises:
      SystemExit: no module is named.
    """
    if not arguments:
        raise SystemExit("usage: python -m hmoe.compat MODULE [ARGUMENT ...]")
    compat.install()
    _keep_resource_variables()
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _keep_resource_variables() -> None:
    """Lets the command turn TensorFlow 2 behaviour off, but for resource variables.

    T5's command calls `tf.disable_v2_behavior()` by itself, after anything done here.
    """
    import tensorflow.compat.v1 as tf

    disable_v2_behavior = tf.disable_v2_behavior

    def disable() -> None:
        disable_v2_behavior()
        tf.enable_resource_variables()

    tf.disable_v2_behavior = disable


if __name__ == "__main__":
    main(sys.argv[1:])
