"""The hooks of a training session: weights onto the mesh, alarm, reports, checkpoints, the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hmoe.compat.stack import tf
from hmoe.startup.signals import OrderlyStop
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.training import StopVote, TrainingGraph
from hmoe.t5.sessions import operative_config, processes, training_folder
from hmoe.t5.sessions.counting_hook import CountingHook
from hmoe.t5.sessions.displays import Display
from hmoe.t5.sessions.loss_alarm import LossAlarmHook
from hmoe.t5.sessions.mesh_saver import MeshSaver
from hmoe.t5.sessions.progress import ProgressHook
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.training_folder import Beginning, RunKeeper
from hmoe.t5.sessions.weight_check import WeightCheck


class StepRange(NamedTuple):
    """The steps of a training session.

    Attributes:
      first: number of steps that are done when it begins.
      last: the step that it stops at.
    """

    first: int
    last: int


def training_hooks(
    settings: ModelSettings,
    session: SessionSettings,
    graph: TrainingGraph,
    saver: MeshSaver,
    steps: StepRange,
    stop: OrderlyStop,
    beginning: Beginning,
    display: Display,
    more_hooks: Sequence[tf.train.SessionRunHook] = (),
) -> list[tf.train.SessionRunHook]:
    """Returns all hooks of a training session, in the order in which they must run.

    The alarm comes before the hooks that report and save, so that nothing of a step with a wrong
    loss is kept. Nor is anything written of a run whose first step fails, or moved for it.
    """
    model_dir = settings.model_dir
    mesh_impl = next(iter(graph.lowering.mesh_to_impl.values()))
    progress = ProgressHook(steps.first, steps.last, model_dir, session, graph, display)
    save = SaveHook(
        steps.first,
        model_dir,
        session,
        saver,
        settings.save_checkpoints_steps,
        WeightCheck(settings, session, mesh_impl).check,
        progress.keep_sums,
        _keeper(model_dir, beginning, has_checkpoint=steps.first > 0),
    )
    anew = FirstStepHook(lambda: training_folder.begin_anew(model_dir, session.say))
    begins_anew = beginning.anew and processes.is_first()
    return [
        ToSlicesHook(saver),
        LossAlarmHook(steps.first, settings, session, graph),
        *([anew] if begins_anew else []),
        *more_hooks,
        progress,
        save,
        StopHook(steps.first, steps.last, stop, graph.stop),
    ]


def _keeper(model_dir: str, beginning: Beginning, has_checkpoint: bool) -> RunKeeper:
    def keep() -> None:
        if not processes.is_first():
            return
        operative_config.write(model_dir)
        beginning.keep_run()

    return RunKeeper(keep, has_checkpoint)


class ToSlicesHook(tf.train.SessionRunHook):
    """Copies initialized or restored weights onto the slices of the mesh."""

    def __init__(self, saver: MeshSaver):
        self._saver = saver

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        """Copies the weights once the variables have their values."""
        session.run(self._saver.to_slices)


class FirstStepHook(tf.train.SessionRunHook):
    """Does something once, when the first step of a session has succeeded."""

    def __init__(self, action: Callable[[], None]):
        self._action: Callable[[], None] | None = action

    def after_run(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Calls the action after the first step."""
        if self._action is not None:
            self._action()
            self._action = None


class StopHook(CountingHook):
    """Ends training at its last step, or when the user interrupts it."""

    def __init__(
        self,
        first_step: int,
        max_steps: int,
        stop: OrderlyStop,
        vote: StopVote | None = None,
    ):
        super().__init__(first_step)
        self._max_steps = max_steps
        self._stop = stop
        self._vote = vote

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs | None:
        """Tells the other processes whether this one is to stop, and asks them."""
        if self._vote is None:
            return None
        own = 1.0 if self._stop.asked() else 0.0
        return tf.train.SessionRunArgs(self._vote.all, {self._vote.own: own})

    def after_step(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Asks the session to stop if it is time."""
        if self._is_to_stop(run_values.results) or self.step >= self._max_steps:
            run_context.request_stop()

    def _is_to_stop(self, voices: float | None) -> bool:
        if self._vote is None:
            return self._stop.asked()
        # Only what all know of: a signal that came since is told with the next step.
        if not voices:
            return False
        self._stop.ask()
        return True


class SaveHook(CountingHook):
    """Saves a checkpoint at regular steps, and at the end, if the weights pass a check."""

    def __init__(
        self,
        first_step: int,
        model_dir: str,
        session: SessionSettings,
        saver: MeshSaver,
        every_steps: int,
        check: Callable[[tf.Session, int], None],
        keep_sums: Callable[[str], None],
        keeper: RunKeeper,
    ):
        super().__init__(first_step)
        self._check = check
        self._keep_sums = keep_sums
        self._keeper = keeper
        self._model_dir = model_dir
        self._say = session.say
        self._saver = saver
        self._every_steps = every_steps
        # The checkpoint that the run resumed from is not written again.
        self._saved_step = first_step

    def after_step(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Saves a checkpoint if it is time."""
        if self._every_steps and self.step % self._every_steps == 0:
            self._save(run_context.session)

    def end(self, session: tf.Session) -> None:
        """Saves the last step; TensorFlow does not call this when a session fails."""
        if self.step != self._saved_step:
            self._save(session)

    def _save(self, session: tf.Session) -> None:
        self._saver.collect(session)
        self._check(session, self.step)
        path = self._saver.save(session, self._model_dir, self.step, self._write_beside)
        self._saved_step = self.step
        self._keeper.after_manifest()
        self._say(f"Saved {path}")

    def _write_beside(self, path: str) -> None:
        self._keep_sums(path)
        self._keeper.before_manifest()
