"""Runs a command of T5 or Mesh TensorFlow with the stand-ins in place.

`python -m hmoe.compat t5.models.mesh_transformer_main --module_import=hmoe.t5 ...` runs T5's own
command, whose first import fails under a TensorFlow later than 2.12.
"""

from __future__ import annotations

import runpy
import sys

from hmoe import compat
from hmoe.compat import patches


def main(arguments: list[str]) -> None:
    """Runs a module as a command.

    Args:
      arguments: the module's name, then the arguments of its command line.

    Raises:
      SystemExit: there is no argument.
    """
    if not arguments:
        raise SystemExit("usage: python -m hmoe.compat MODULE [ARGUMENT ...]")
    compat.install()
    _keep_resource_variables()
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _keep_resource_variables() -> None:
    """Makes `tf.disable_v2_behavior()` leave resource variables on.

    T5's command calls it by itself, after anything that could be done here.
    """
    import tensorflow.compat.v1 as tf

    disable_v2_behavior = tf.disable_v2_behavior

    def disable_all_but_resource_variables() -> None:
        disable_v2_behavior()
        tf.enable_resource_variables()

    patches.DISABLE_V2_BEHAVIOR.replace(disable_all_but_resource_variables)


if __name__ == "__main__":
    main(sys.argv[1:])
