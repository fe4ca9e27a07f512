"""Inputs, importance and weights that depend on a name alone, so that every run sees the same."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

# Names and sizes of the dimensions of an array, in order.
Dims = Sequence[tuple[str, int]]


def generator(name: str) -> np.random.RandomState:
    """Returns a generator that is seeded by a name."""
    return np.random.RandomState(zlib.crc32(name.encode()) % 2**31)


def direction_of(shape: Sequence[int]) -> np.ndarray:
    """Returns the float32 factors of the outputs in the objective whose gradients are compared."""
    return generator("direction").randn(*shape).astype(np.float32)


def weights_of(name: str, shape: Sequence[int], salt: str = "") -> np.ndarray:
    """Returns float32 weights for a variable; gates choose more sharply than freshly made ones."""
    scale = 0.7 if "gating" in name else 0.4
    if name.endswith("balance_bias"):
        scale = 0.1
    return (generator(f"{name}{salt}").randn(*shape) * scale).astype(np.float32)


def tokens_of(dims: Dims, salt: str = "") -> np.ndarray:
    """Returns float32 inputs."""
    return generator(f"inputs{salt}").randn(*[size for _, size in dims]).astype(np.float32)


def clear_tokens(
    dims: Dims, kernels: Sequence[np.ndarray], k: int = 2, margin: float = 2e-3
) -> np.ndarray:
    """Returns inputs whose choices at every level survive a small change of the numbers.

    Args:
      dims: names and sizes of all dimensions of the inputs.
      kernels: one gate's kernel for each level, outermost first; each [*outer, M, X].
      k: choices at each level.
      margin: smallest difference between probabilities next to one another in rank.
    """
    draws = generator(f"clear {dims}")
    kept: list[np.ndarray] = []
    while len(kept) < np.prod([size for _, size in dims[:-1]]):
        token = draws.randn(dims[-1][1])
        if all(_least_gap(token, kernel, k) > margin for kernel in kernels):
            kept.append(token)
    return np.array(kept, np.float32).reshape([size for _, size in dims])


def _least_gap(token: np.ndarray, kernel: np.ndarray, k: int) -> float:
    logits = np.einsum("m,...mx->...x", token, kernel.astype(np.float64))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    best = -np.sort(-probabilities, axis=-1)[..., : k + 1]
    return float((best[..., :-1] - best[..., 1:]).min())


def importance_of(dims: Dims, partial: bool = True, padding: bool = True) -> np.ndarray:
    """Returns float32 importance for tokens, about a tenth of them partial and a tenth padding."""
    shape = [size for _, size in dims[:-1]]
    draw = generator(f"importance{shape}").rand(*shape)
    values = np.ones(shape, np.float32)
    if partial:
        values[draw < 0.12] = 0.5
    if padding:
        values[draw > 0.85] = 0.0
    return values
