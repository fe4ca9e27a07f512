"""Numbers that every side draws alike, by name."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def normal(name: str, shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
    """float32."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    numbers = generator.standard_normal(size=tuple(shape), dtype=np.float32)
    numbers *= np.float32(scale)
    return numbers


def weights(name: str, shape: Sequence[int]) -> np.ndarray:
    """float32 of a variable: kernels [..., in, out], so scaled that depths do not matter."""
    return normal(name, shape, 0.1 if name.endswith("bias") else shape[-2] ** -0.5)
