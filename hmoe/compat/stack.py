"""`mtf` and `tf` for the whole package: `from hmoe.compat.stack import mtf, tf`.

Importing this module installs the stand-ins and then imports Mesh TensorFlow. `tf` is
`tensorflow.compat.v1`. It does not turn TensorFlow 2 behaviour off, which
`hmoe.compat.behave_like_v1` does.
"""

from __future__ import annotations

from hmoe import compat

compat.install()

import mesh_tensorflow as mtf  # noqa: E402  (the stand-ins must come first)
import tensorflow.compat.v1 as tf  # noqa: E402

__all__ = ["mtf", "tf"]
