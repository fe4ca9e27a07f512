"""Stops a run whose loss is not a finite number, or whose cross entropy is below zero."""

from __future__ import annotations

import math

from hmoe.compat.stack import tf
from hmoe.startup.errors import RunFailedError
from hmoe.t5.graphs.sums import model_sum
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import checkpoints
from hmoe.t5.sessions.counting_hook import CountingHook


class LossAlarmHook(CountingHook):
    """Checks the loss of every training step, before anything of the step is reported or saved."""

    def __init__(self, first_step: int, model_dir: str, graph: TrainingGraph):
        super().__init__(first_step)
        self._model_dir = model_dir
        self._fetches = (graph.loss, graph.sums[model_sum("below_zero")])

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        """Fetches the loss, and by how much cross entropies are below zero."""
        return tf.train.SessionRunArgs(self._fetches)

    def after_step(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Raises ValueError if the step's loss cannot be right."""
        loss, below_zero = map(float, run_values.results)
        check_finite(loss, self.step, self._model_dir)
        check_probabilities(below_zero, f"at step {self.step}")


def check_finite(loss: float, step: int, model_dir: str) -> None:
    """Checks that a training loss is a finite number.

    Args:
      loss: the loss of a step.
      step: the step.
      model_dir: folder of the run's checkpoints.

    Raises:
      ValueError: the loss is infinite or not a number.
    """
    if math.isfinite(loss):
        return
    path = checkpoints.latest(model_dir)
    last = f"the last checkpoint is {path}" if path else "no checkpoint was saved"
    raise RunFailedError(
        f"the loss is {loss} at step {step}, and no later step can recover from it; {last}. "
        "Lower the learning rate (utils.run.learning_rate_schedule), or with bfloat16 use float32 "
        "activations (hmoe.Session.activation_dtype; on a TPU "
        "utils.get_variable_dtype.activation_dtype)"
    )


def check_probabilities(below_zero: float, when: str) -> None:
    """Checks that no target has a probability above 1.

    Args:
      below_zero: sum of `TargetLosses.below_zero`.
      when: the place in the run, for the message, such as "at step 3".

    Raises:
      ValueError: one has, so a sum over the mesh must be wrong.
    """
    if below_zero > 0:
        raise RunFailedError(
            f"a target has a probability above 1 {when} (cross entropies are below 0 by "
            f"{below_zero:g} in total): a sum over the mesh is wrong, and so is every number "
            "computed from it. Nothing was saved. Compare with one device (utils.run.mesh_shape = "
            "'' and utils.run.layout_rules = ''), and report the mesh and the layout"
        )
