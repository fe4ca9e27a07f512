"""What every test needs before TensorFlow starts."""

from __future__ import annotations

import os

# TensorFlow reads these when it is imported. Tolerances are those of float32 on a processor; a
# GPU would multiply in fewer bits.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from hmoe import compat
from hmoe.compat import stack  # noqa: F401  (before any test imports mesh_tensorflow)

# Once for the whole session, before any test makes a graph: resource variables, always.
compat.behave_like_v1()
