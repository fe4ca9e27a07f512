"""The base of the hooks that act after training steps."""

from __future__ import annotations

from hmoe.compat.stack import tf
from hmoe.startup.errors import RunFailedError


class CountingHook(tf.train.SessionRunHook):
    """Counts the training steps on the host; each run of the session is one step.

    Attributes:
      step: number of steps that are done.
    """

    def __init__(self, first_step: int):
        self.step = first_step
        self._has_session = False

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        """Refuses a second session, which TensorFlow makes when the first one was lost.

        It would begin with the weights that the run began with, and go on with the count of steps.

        Raises:
          RunFailedError: there was a session before.
        """
        if self._has_session:
            raise RunFailedError(
                f"the session was lost after step {self.step} (the server of hmoe.Session.master "
                "has stopped or was started anew), and the weights since the last checkpoint with "
                "it; run the same command again to resume from there"
            )
        self._has_session = True

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
