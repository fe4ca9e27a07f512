"""Reports the progress of training: to the user, TensorBoard and `metrics.jsonl`; gives alarms."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import numpy as np

from hmoe.compat.stack import tf
from hmoe.layer.level_states import level_states
from hmoe.startup.console import duration
from hmoe.storage import checkpoint_files
from hmoe.t5.graphs.sums import SumKey, model_sum
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import (
    expert_summaries,
    metrics_file,
    operative_config,
    processes,
    run_metrics,
    saved_sums,
)
from hmoe.t5.sessions.alarm_watch import AlarmWatch
from hmoe.t5.sessions.counting_hook import CountingHook
from hmoe.t5.sessions.displays import Display, LineDisplay
from hmoe.t5.sessions.load_history import LoadHistory
from hmoe.t5.sessions.progress_report import ProgressReport
from hmoe.t5.sessions.session_settings import SessionSettings


class ProgressHook(CountingHook):
    """Reports at regular steps and at the end.

    Every metric covers all steps since the last report, not one step. All sums are fetched in every
    step, because TensorFlow would prepare the graph a second time for other fetches.

    Args:
      first_step: number of steps that are done when training begins.
      max_steps: the step that training stops at.
      model_dir: folder of the run.
      session: settings of reports and alarms.
      graph: the graph of a step.
      display: shows the progress; by default lines do.
    """

    def __init__(
        self,
        first_step: int,
        max_steps: int,
        model_dir: str,
        session: SessionSettings,
        graph: TrainingGraph,
        display: Display | None = None,
    ):
        super().__init__(first_step)
        self._max_steps = max_steps
        self._model_dir = model_dir
        self._writer: tf.summary.FileWriter | None = None
        self._path = os.path.join(model_dir, metrics_file.METRICS_FILE)
        self._session = session
        self._display = display or LineDisplay(session.say)
        self._alarms = AlarmWatch(model_dir, session, graph.routers)
        self._fetches = {
            model_sum("loss"): graph.loss,
            model_sum("learning_rate"): graph.learning_rate,
            **graph.sums,
        }
        self._collector = run_metrics.SumCollector()
        self._history = LoadHistory()
        self._clock = time.time()
        # The first step includes preparing the graph, so that speed is measured after it.
        self._clock_step: int | None = None
        self._reported_step: int | None = None
        # Steps since the sums were last added.
        self._num_new = 1

    def begin(self) -> None:
        """Reads the sums that the checkpoint's steps left."""
        if self.step and processes.is_first():
            self._take_up_sums()

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        """Fetches the loss, the learning rate and all sums."""
        return tf.train.SessionRunArgs(self._fetches)

    def after_step(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Adds up the sums, and reports if it is time."""
        if processes.is_first():  # the others take part in the sums, which it reports
            self._add(run_values.results)

    def add_steps(self, sums: Mapping[SumKey, np.ndarray], num_steps: int) -> None:
        """Adds the totals of steps that ran without a visit of the host; reports if it is time.

        Args:
          sums: totals over the steps.
          num_steps: the number of steps.
        """
        self.step += num_steps
        self._num_new = num_steps
        self._add(sums)

    def _add(self, sums: Mapping[SumKey, np.ndarray]) -> None:
        if self._writer is None:
            self._writer = self._begin_curves(sums)
        self._collector.add(sums, self._num_new)
        self._history.add(self.step, sums, self._num_new)
        if self._clock_step is None:
            took = duration(time.time() - self._clock)
            self._session.say(f"First step done {took} after the model was built")
            self._clock, self._clock_step = time.time(), self.step
        self._display.show_step(self.step)
        self._alarms.add(self.step, sums, self._num_new)
        if self._is_regular() or self.step == self._max_steps:
            self._report()

    def end(self, session: tf.Session) -> None:
        """Reports the steps since the last report, and closes the files."""
        if self._writer is None:  # the data ended before the first step
            return
        if self._collector.count and self._reported_step != self.step:
            self._report()
        self._writer.close()

    def keep_sums(self, path: str) -> None:
        """Keeps the sums of the steps since the last regular report, for a run that resumes.

        Args:
          path: path prefix of the checkpoint that they belong to.
        """
        saved_sums.write(path, saved_sums.SavedSums(self._collector, self._history))

    def _take_up_sums(self) -> None:
        path = checkpoint_files.prefix(self._model_dir, self.step)
        found = saved_sums.read(path)
        if found is not None:
            self._collector, self._history = found
        elif not self._is_regular():
            self._session.say(
                f"{path}{saved_sums.ENDING} is missing or damaged: the next "
                f"line of {metrics_file.METRICS_FILE} is the mean of the steps after {self.step} "
                "alone"
            )

    def _begin_curves(self, first_sums: Mapping[SumKey, np.ndarray]) -> tf.summary.FileWriter:
        """Opens the curves, after the first step, to go on from those of the checkpoint's steps.

        Lines of later steps are dropped, and the line of steps whose sums go into the next one: it
        was written because the run was to end there.
        """
        first = self.step - self._num_new
        self._drop_other_sums(first_sums, first)
        last = first - 1 if self._collector.count else first
        # Not a writer that TensorFlow shares, which writes the whole graph first: that takes
        # seconds and tens of megabytes.
        writer = tf.summary.FileWriter(self._model_dir)
        metrics_file.keep_lines(self._path, lambda step: step <= last, self._session.say)
        self._alarms.begin(first)
        writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), self.step)
        operative_config.show(writer, first)
        return writer

    def _drop_other_sums(self, first_sums: Mapping[SumKey, np.ndarray], step: int) -> None:
        """Drops the sums of the checkpoint's steps unless they are of the kind of this session's.

        Experts of another number, or other metrics, leave sums that nothing can be added to.
        """
        if not self._history.fits(first_sums):
            self._history = LoadHistory()
        if self._collector.count and not self._collector.fits(first_sums):
            path = checkpoint_files.prefix(self._model_dir, step)
            self._session.say(
                f"{path}{saved_sums.ENDING} has the sums of another configuration: the next line "
                f"of {metrics_file.METRICS_FILE} is the mean of the steps after {step} alone"
            )
            self._collector = run_metrics.SumCollector()
            self._history = LoadHistory()

    def _is_regular(self) -> bool:
        every = self._session.log_every_steps
        return self.step // every > (self.step - self._num_new) // every

    def _report(self) -> None:
        numbers = {**run_metrics.training_metrics(self._collector), **self._history.metrics()}
        num_timed, now = self.step - (self._clock_step or 0), time.time()
        if num_timed:
            steps_per_second = num_timed / max(now - self._clock, 1e-9)
            tokens = self._collector.of_model("tokens") / self._collector.count
            numbers[run_metrics.STEPS_PER_SECOND.name] = steps_per_second
            numbers[run_metrics.TOKENS_PER_SECOND.name] = tokens * steps_per_second
        levels = level_states(run_metrics.sums_by_layer(self._collector.sums))
        self._display.show_report(ProgressReport(self.step, self._max_steps, numbers, levels))
        metrics_file.append_line(self._path, self.step, numbers)
        assert self._writer is not None, "the first step opens it"
        self._writer.add_summary(metrics_file.scalar_summary(numbers), self.step)
        self._writer.add_summary(expert_summaries.summary(levels), self.step)
        self._writer.flush()
        self._reported_step = self.step
        if self._is_regular():
            self._collector = run_metrics.SumCollector()
            self._history.begin_report()
        self._clock, self._clock_step = now, self.step
