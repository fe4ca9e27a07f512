"""Numbers of examples, which tokens take along through the levels."""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf

# A TPU's all-to-all sends float32 as bfloat16, which holds integers up to this number.
_BASE = 256


def example_ids(mesh: mtf.Mesh, shape: mtf.Shape) -> mtf.Tensor:
    """Returns float32 [A, B, ...]: a * B + b, the number of each token's example."""
    outer, inner = shape.dims[:2]
    number = mtf.range(mesh, outer, tf.float32) * float(inner.size) + mtf.range(
        mesh, inner, tf.float32
    )
    return mtf.broadcast(number, shape)


def to_digits(example: mtf.Tensor, num_examples: int) -> list[mtf.Tensor]:
    """Returns the digits of numbers [...], float32 [...] each, lowest first.

    Each digit is small enough to survive an all-to-all.
    """
    found, left, largest = [], example, num_examples - 1
    while True:
        higher = mtf.floordiv(left, float(_BASE))
        found.append(left - higher * float(_BASE))
        left, largest = higher, largest // _BASE
        if not largest:
            return found


def from_digits(digits: list[mtf.Tensor]) -> mtf.Tensor:
    """Returns float32 [...], the numbers with these digits."""
    return mtf.add_n([digit * float(_BASE**place) for place, digit in enumerate(digits)])
