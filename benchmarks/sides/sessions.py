"""What all sides share that run in a TensorFlow session: peak, and timed fetches."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version

import numpy as np
import tensorflow.compat.v1 as tf

from benchmarks.sizes import PEAK_SIZE


def packages(*names: str) -> dict:
    """Versions of TensorFlow, what it was told of oneDNN, and of more packages."""
    told = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "numpy": np.__version__,
    }
    return dict(told, **{name: version(name) for name in names})


class InSession:
    """A graph with a session of default settings; a subclass makes `_timed` tensors in it.

    What is timed is fetched as it is, which copies nothing, rather than reduced to numbers:
    TensorFlow leaves out what nothing fetched depends on.
    """

    def __init__(self, dtype: str = "float32"):
        self._dtype = tf.as_dtype(dtype)
        self.graph = tf.Graph()
        with self.graph.as_default():
            self._variables()
            shape = [PEAK_SIZE, PEAK_SIZE]
            self._square = self.variable("square", shape, dtype=self._dtype)
            self._product = tf.matmul(self._square, self._square)
            self._session = tf.Session()
            self._load()

    def _variables(self) -> None:
        """Builds the graph; leaves `_timed`."""
        raise NotImplementedError

    def variable(self, name, shape, dtype=tf.float32):
        """A variable, which no constant folding can use up before it is timed."""
        return tf.get_variable(name, list(shape), dtype, use_resource=True, trainable=False)

    def load(self, variable, value):
        variable.load(np.asarray(value, variable.dtype.as_numpy_dtype), self._session)

    def step(self) -> float:
        return self.seconds(self._timed)

    def seconds(self, fetched) -> float:
        """Of one run."""
        started = time.perf_counter()
        self._session.run(fetched)
        return time.perf_counter() - started

    def trace(self) -> tf.RunMetadata:
        """Of a step: when each operation began and ended."""
        metadata = tf.RunMetadata()
        self._session.run(
            self._timed,
            run_metadata=metadata,
            options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE),
        )
        return metadata

    def peak(self) -> float:
        return 2 * PEAK_SIZE**3 / self.seconds(self._product)
