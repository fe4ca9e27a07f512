"""Compares gradients with central differences of the oracle's objective."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests import seeded, tolerances

Tensors = dict[str, np.ndarray]


def assert_same_gradients(
    gradients: Tensors,
    objective: Callable[[Tensors], float],
    tensors: Tensors,
    coordinates: int = 3,
) -> None:
    """Compares some coordinates of each gradient with a difference of the objective.

    They are the coordinate of largest gradient in each tensor, and others at random.

    Args:
      gradients: the gradients to check, by the names of tensors.
      objective: returns the objective from weights and inputs in float64.
      tensors: weights and inputs, by name.
      coordinates: how many to compare in each tensor.
    """
    for name, gradient in gradients.items():
        for where in _coordinates(name, gradient, coordinates):
            expected = _slope(objective, tensors, name, where)
            tolerances.assert_close(
                gradient[where], expected, tolerances.DIFFERENCES, f"{name}{where}"
            )


def _coordinates(name: str, gradient: np.ndarray, number: int) -> list[tuple[int, ...]]:
    largest = int(np.argmax(np.abs(gradient)))
    draws = seeded.generator(f"coordinates {name}")
    others = draws.choice(gradient.size, number - 1, replace=False).tolist()
    return [np.unravel_index(flat, gradient.shape) for flat in [largest, *others]]


def _slope(
    objective: Callable[[Tensors], float], tensors: Tensors, name: str, where: tuple[int, ...]
) -> float:
    step = tolerances.DIFFERENCES_STEP
    sides = []
    for sign in (1, -1):
        moved = {key: np.array(value, np.float64) for key, value in tensors.items()}
        moved[name][where] += sign * step
        sides.append(objective(moved))
    return (sides[0] - sides[1]) / (2 * step)
