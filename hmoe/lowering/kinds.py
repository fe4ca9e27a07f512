"""The kinds of collectives, as they are called in reports; loads no TensorFlow."""

from __future__ import annotations

ALL_TO_ALL, ALL_REDUCE, ALL_GATHER, SHIFT = "all-to-all", "all-reduce", "all-gather", "shift"
