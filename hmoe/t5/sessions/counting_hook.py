"""The base of the hooks that act after training steps."""

from __future__ import annotations

from hmoe.compat.stack import tf


class CountingHook(tf.train.SessionRunHook):
    """Counts the training steps on the host; each run of the session is one step.

    Attributes:
      step: number of steps that are done.
    """

    def __init__(self, first_step: int):
        self.step = first_step

    def after_run(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Counts the step, then does the hook's own work."""
        self.step += 1
        self.after_step(run_context, run_values)

    def after_step(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Does the hook's own work after step `self.step`."""
        raise NotImplementedError
