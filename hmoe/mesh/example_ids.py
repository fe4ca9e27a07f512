"""Numbers of examples, which tokens take along through the levels."""

from __future__ import annotations

from hmoe.compat.stack import mtf, tf

# A TPU's all-to-all sends float32 as bfloat16, which holds whole numbers up to here.
_BASE = 256


def numbers(mesh: mtf.Mesh, shape: mtf.Shape) -> mtf.Tensor:
    """float32 [A, B, ...]: a * B + b, the number of the example that each token is of."""
    outer, inner = shape.dims[:2]
    number = mtf.range(mesh, outer, tf.float32) * float(inner.size) + mtf.range(
        mesh, inner, tf.float32
    )
    return mtf.broadcast(number, shape)


def digits(example: mtf.Tensor, num_examples: int) -> list[mtf.Tensor]:
    """float32 [...] each: the number in digits small enough to travel, lowest first."""
    found, left, largest = [], example, num_examples - 1
    while True:
        higher = mtf.floordiv(left, float(_BASE))
        found.append(left - higher * float(_BASE))
        left, largest = higher, largest // _BASE
        if not largest:
            return found


def from_digits(found: list[mtf.Tensor]) -> mtf.Tensor:
    """float32 [...]: the number with these digits."""
    return mtf.add_n([digit * float(_BASE**place) for place, digit in enumerate(found)])
