"""What happens between two loops of steps on a TPU: the alarm, reports and checkpoints.

All three are those of sessions. There, hooks fetch the sums of each step; a TPU adds them up on its
mesh, and a hook takes them after each loop.
"""

from __future__ import annotations

from hmoe.compat.stack import tf
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.sum_variable import STEPS
from hmoe.t5.graphs.sums import model_sum
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions.loss_alarm import LossAlarm
from hmoe.t5.sessions.mesh_saver import MeshSaver
from hmoe.t5.sessions.progress import ProgressHook
from hmoe.t5.sessions.run_metrics import HostSums
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.tpu_sums import LoopSums
from hmoe.t5.sessions.weight_check import WeightCheck


class LoopAlarmHook(tf.train.SessionRunHook):
    """Takes the sums of each loop of steps, and checks its losses.

    It is made before the graph, and so comes before TensorFlow's own hook for losses that are not
    numbers, whose message gives no cause.

    Args:
      settings: the model's settings.

    Attributes:
      step: number of steps that are done.
      num_steps: number of steps of the last loop.
      sums: the totals of the last loop, as `SumVariable` has them, but for the number of steps.
      loop_sums: takes the sums from the mesh; None before `watch`.
    """

    def __init__(self, settings: ModelSettings):
        self.step = 0
        self.num_steps = 0
        self.sums: HostSums = {}
        self._settings = settings
        self.loop_sums: LoopSums | None = None

    def watch(self, graph: TrainingGraph) -> None:
        """Adds to the default graph what is run between loops.

        Args:
          graph: the graph of a step, which adds up its sums.
        """
        self.loop_sums = LoopSums(graph)
        self._global_step = tf.train.get_global_step().read_value()

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        """Begins at the step of the checkpoint, also where TensorFlow makes another session."""
        self.step = int(session.run(self._global_step))
        dtype = self._settings.variable_dtype.activation_dtype.name
        self._alarm = LossAlarm(self.step, self._settings, dtype)

    def after_run(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Raises RunFailedError if a loss or the learning rate of the loop cannot be right."""
        assert self.loop_sums is not None, "the model function calls watch"
        self.sums = self.loop_sums.take(run_context.session)
        self.num_steps = int(self.sums.pop(STEPS))
        self.step += self.num_steps
        loss, rate = (float(self.sums[model_sum(name)]) for name in ("loss", "learning_rate"))
        self._alarm.check(self.step, loss, rate, self.sums, self.num_steps)


class LoopReportHook(tf.train.CheckpointSaverHook):
    """Reports and saves after loops of steps whose losses have been checked.

    `TPUEstimator` takes it for the saver of the run by its type. Without one it would save by
    itself, and weights that have not been copied from the mesh.

    Args:
      alarm: has the steps and the sums.
      settings: the model's settings.
      session: settings of reports and checks.
      graph: the graph of a step, in the default graph.
      max_steps: the step that training stops at.
    """

    def __init__(
        self,
        alarm: LoopAlarmHook,
        settings: ModelSettings,
        session: SessionSettings,
        graph: TrainingGraph,
        max_steps: int,
    ):
        # Not the base's constructor: nothing of the base is used.
        self._alarm = alarm
        self._settings = settings
        self._session = session
        self._graph = graph
        self._max_steps = max_steps
        self._saver = MeshSaver(graph.lowering, settings.keep_checkpoint_max)
        self._check = WeightCheck(settings, session)
        self._saved_step = 0

    def begin(self) -> None:
        """Does nothing; the session tells the first step."""

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        """Begins reports at the step of the checkpoint, which is not written again."""
        self._saved_step = self._alarm.step
        self._progress = ProgressHook(
            self._alarm.step,
            self._max_steps,
            self._settings.model_dir,
            self._session,
            self._graph,
        )
        self._progress.begin()

    def before_run(self, run_context: tf.train.SessionRunContext) -> None:
        """Fetches nothing, since nothing of a step can be fetched from a TPU."""

    def after_run(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Reports the loop, and saves if a step to save at was in it.

        Raises:
          RunFailedError: a weight is not finite or too large.
        """
        step, num_steps = self._alarm.step, self._alarm.num_steps
        self._progress.add_steps(self._alarm.sums, num_steps)
        every = self._settings.save_checkpoints_steps
        if every and step // every > (step - num_steps) // every:
            self._save(run_context.session)

    def end(self, session: tf.Session) -> None:
        """Reports and saves the last steps; TensorFlow does not call this when a session fails."""
        self._progress.end(session)
        if self._alarm.step != self._saved_step:
            self._save(session)

    def _save(self, session: tf.Session) -> None:
        step, folder = self._alarm.step, self._settings.model_dir
        self._saver.collect(session)
        self._check.check(session, step)
        path = self._saver.save(session, folder, step, self._progress.keep_sums)
        self._saved_step = step
        self._session.say(f"Saved {path}")
