"""A variable of the mesh that adds up the sums of steps, for a host that cannot fetch them.

A TPU runs many steps between two visits of its host, and nothing of a step leaves it but what a
variable keeps.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs.sums import SumKey, Sums, model_sum

# Number of steps that were added.
STEPS = model_sum("steps")

_NAME = "sums_of_steps"
_DIMENSION = "sums_of_steps"


@dataclasses.dataclass(frozen=True)
class SumVariable:
    """Totals of sums over steps, one behind the other in one variable.

    It is in no checkpoint: each session begins with zeros.

    Attributes:
      variable: float32 [numbers].
      keys: the sums, in their order in the variable.
      shapes: the shape of each.
      add: adds the sums of one step, when it is lowered and run.
    """

    variable: mtf.Variable
    keys: tuple[SumKey, ...]
    shapes: tuple[tuple[int, ...], ...]
    add: mtf.Operation

    def split(self, numbers: np.ndarray) -> dict[SumKey, np.ndarray]:
        """Returns each total, from the value of the variable."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = np.split(numbers, ends)
        return {key: part.reshape(shape) for key, part, shape in zip(self.keys, parts, self.shapes)}


def add_up(
    mesh: mtf.Mesh, loss: mtf.Tensor, rate: float | tf.Tensor | None, sums: Sums
) -> SumVariable:
    """Adds a variable that adds up, over steps, what `TrainingGraph` has of each step.

    Args:
      mesh: the mesh.
      loss: [], the loss of the step.
      rate: the learning rate of the step; None for 0.
      sums: sums over the step, as `sums.replicated` returns them.

    Returns:
      The variable, with the totals of `sums`, of `model_sum("loss")`, of
      `model_sum("learning_rate")` and of `STEPS`.
    """
    step_rate = tf.cast(0.0 if rate is None else rate, tf.float32)
    of_step = {
        STEPS: mtf.constant(mesh, 1.0, dtype=tf.float32),
        model_sum("loss"): loss,
        model_sum("learning_rate"): mtf.import_tf_tensor(mesh, step_rate, mtf.Shape([])),
        **sums,
    }
    flat = [
        mtf.reshape(mtf.cast(each, tf.float32), [mtf.Dimension(_DIMENSION, each.shape.size)])
        for each in of_step.values()
    ]
    numbers = mtf.concat(flat, _DIMENSION)
    variable = mtf.Variable(
        mesh,
        _NAME,
        numbers.shape,
        mtf.VariableDType(tf.float32),
        tf.zeros_initializer(),
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES],
    )
    return SumVariable(
        variable=variable,
        keys=tuple(of_step),
        shapes=tuple(tuple(each.shape.to_integer_list) for each in of_step.values()),
        add=mtf.assign(variable, variable.value + numbers),
    )
