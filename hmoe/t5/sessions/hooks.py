"""What happens around the steps: weights onto the mesh, reports, alarms, checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import gin.tf

from hmoe.compat.stack import tf
from hmoe.startup.console import duration
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import checkpoints, run_metrics
from hmoe.t5.sessions.session_settings import SessionSettings

METRICS_FILE = "metrics.jsonl"


def training_hooks(
    settings: ModelSettings,
    session: SessionSettings,
    graph: TrainingGraph,
    saver: checkpoints.MeshSaver,
    first_step: int,
    max_steps: int,
    interrupted: Callable[[], bool],
) -> list[tf.train.SessionRunHook]:
    """All hooks of a training session, in the order in which they must run.

    A loss that is not a number stops the session before anything of it is saved.
    """
    model_dir = settings.model_dir
    # One writer for all: those that TensorFlow shares out write the whole graph first, which
    # takes seconds and tens of megabytes.
    writer = tf.summary.FileWriter(model_dir)
    config_hook = gin.tf.GinConfigSaverHook(
        model_dir, summary_writer=writer, include_step_in_filename=False
    )
    return [
        ToSlicesHook(saver),
        config_hook,
        ReportHook(first_step, max_steps, model_dir, session, graph, writer),
        SaveHook(first_step, model_dir, session, saver, settings.save_checkpoints_steps),
        StopHook(first_step, max_steps, interrupted),
    ]


class ToSlicesHook(tf.train.SessionRunHook):
    """Copies new or restored weights onto the slices of the mesh."""

    def __init__(self, saver: checkpoints.MeshSaver):
        self._saver = saver

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        """Runs once the variables have their values."""
        session.run(self._saver.to_slices)


class CountingHook(tf.train.SessionRunHook):
    """Counts the steps on this side; the session's every run is one."""

    def __init__(self, first_step: int):
        self.step = first_step

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Counts, then does the hook's own work."""
        self.step += 1
        self.after_step(run_context, run_values)

    def after_step(self, run_context: Any, run_values: Any) -> None:
        """The hook's own work; `self.step` steps are done."""
        raise NotImplementedError


class StopHook(CountingHook):
    """Ends training at a step, or when the user asks for it."""

    def __init__(self, first_step: int, max_steps: int, interrupted: Callable[[], bool]):
        super().__init__(first_step)
        self._max_steps = max_steps
        self._interrupted = interrupted

    def after_step(self, run_context: Any, run_values: Any) -> None:
        """Stops if it is time."""
        if self.step >= self._max_steps or self._interrupted():
            run_context.request_stop()


class SaveHook(CountingHook):
    """Saves a checkpoint every so many steps, and at the end."""

    def __init__(
        self,
        first_step: int,
        model_dir: str,
        session: SessionSettings,
        saver: checkpoints.MeshSaver,
        every_steps: int,
    ):
        super().__init__(first_step)
        self._model_dir = model_dir
        self._say = session.say
        self._saver = saver
        self._every_steps = every_steps
        self._saved_step: int | None = None

    def after_step(self, run_context: Any, run_values: Any) -> None:
        """Saves if it is time."""
        if self._every_steps and self.step % self._every_steps == 0:
            self._save(run_context.session)

    def end(self, session: tf.Session) -> None:
        """Saves the last step; not called when the session failed."""
        if self.step != self._saved_step:
            self._save(session)

    def _save(self, session: tf.Session) -> None:
        path = self._saver.save(session, self._model_dir, self.step)
        self._saved_step = self.step
        self._say(f"Saved {path}")


class ReportHook(CountingHook):
    """A line of progress, TensorBoard curves and `metrics.jsonl`, every so many steps.

    Every number is of all steps since the last report, not of one. All sums are fetched in every
    step, since TensorFlow would otherwise prepare the graph a second time.
    """

    def __init__(
        self,
        first_step: int,
        max_steps: int,
        model_dir: str,
        session: SessionSettings,
        graph: TrainingGraph,
        writer: tf.summary.FileWriter,
    ):
        super().__init__(first_step)
        self._max_steps = max_steps
        self._writer = writer
        self._model_dir = model_dir
        self._session = session
        self._fetches = {
            ("", "loss"): graph.loss,
            ("", "learning_rate"): graph.learning_rate,
            **graph.sums,
        }
        self._collector = run_metrics.SumCollector()
        self._clock = time.time()
        self._clock_step: int | None = None

    def begin(self) -> None:
        """Marks the start, and drops what an earlier run wrote beyond its last checkpoint."""
        keep_lines(os.path.join(self._model_dir, METRICS_FILE), lambda step: step <= self.step)
        start = tf.SessionLog(status=tf.SessionLog.START)
        self._writer.add_session_log(start, self.step + 1)

    def before_run(self, run_context: Any) -> Any:
        """Asks for the loss, the learning rate and all sums."""
        return tf.train.SessionRunArgs(self._fetches)

    def after_step(self, run_context: Any, run_values: Any) -> None:
        """Adds up, and reports if it is time."""
        loss = float(run_values.results[("", "loss")])
        if not math.isfinite(loss):
            raise_diverged(loss, self.step, self._model_dir)
        run_metrics.check_probabilities(
            float(run_values.results[("", "below_zero")]), f"at step {self.step}"
        )
        self._collector.add(run_values.results)
        if self._clock_step is None:
            took = duration(time.time() - self._clock)
            self._session.say(f"First step done {took} after the model was built")
            self._clock, self._clock_step = time.time(), self.step
        if self.step % self._session.log_every_steps == 0 or self.step == self._max_steps:
            self._report()

    def end(self, session: tf.Session) -> None:
        """Reports what is left and closes the files."""
        if self._collector.count:
            self._report()
        self._writer.close()

    def _report(self) -> None:
        numbers = run_metrics.training_measures(self._collector)
        timed, now = self.step - (self._clock_step or 0), time.time()
        if timed:
            speed = timed / max(now - self._clock, 1e-9)
            tokens = self._collector.model("tokens") / self._collector.count
            numbers.update(steps_per_second=speed, tokens_per_second=tokens * speed)
        self._session.say(progress_line(self.step, self._max_steps, numbers))
        append_line(os.path.join(self._model_dir, METRICS_FILE), self.step, numbers)
        self._writer.add_summary(scalar_summary(numbers), self.step)
        self._writer.flush()
        self._collector = run_metrics.SumCollector()
        self._clock, self._clock_step = now, self.step


def raise_diverged(loss: float, step: int, model_dir: str) -> None:
    """Raises ValueError for a loss that is not a number."""
    path = checkpoints.latest(model_dir)
    last = f"the last checkpoint is {path}" if path else "no checkpoint was saved"
    raise ValueError(
        f"the loss is {loss} at step {step}, and training would only go on with it; {last}. "
        "Lower the learning rate (utils.run.learning_rate_schedule), or with bfloat16 use float32 "
        "activations (hmoe.Session.activation_dtype; on a TPU "
        "utils.get_variable_dtype.activation_dtype)"
    )


def progress_line(step: int, max_steps: int, numbers: Mapping[str, float]) -> str:
    """A line such as `step 100 of 600 | loss 1.23 | ... | 2 min 10 s left`."""
    parts = [f"step {step:>{len(str(max_steps))}} of {max_steps}"]
    parts.append(f"loss {numbers['loss']:.4f}")
    parts.append(f"cross_ent_loss {numbers['cross_ent_loss']:.4f}")
    left_behind = numbers.get("experts/fraction_tokens_left_behind")
    if left_behind is not None:
        parts.append(f"left behind {100 * left_behind:.1f} %")
        parts.append(f"imbalance {numbers['experts/load_imbalance']:.2f}")
    if "steps_per_second" in numbers:
        parts.append(f"{numbers['tokens_per_second']:,.0f} tokens/s")
        left = (max_steps - step) / numbers["steps_per_second"]
        parts.append(f"{duration(left)} left")
    return " | ".join(parts)


def keep_lines(path: str, wanted: Callable[[int], bool]) -> None:
    """Removes lines of unwanted steps from a file of metrics, if there is one."""
    if not tf.io.gfile.exists(path):
        return
    with tf.io.gfile.GFile(path) as file:
        lines = [line for line in file.read().splitlines() if line]
    kept = [line for line in lines if wanted(json.loads(line)["step"])]
    if len(kept) < len(lines):
        with tf.io.gfile.GFile(path, "w") as file:
            file.write("".join(f"{line}\n" for line in kept))


def append_line(path: str, step: int, numbers: Mapping[str, float]) -> None:
    """Adds a line of JSON: the step, the time in seconds since 1970, and the numbers."""
    values = {name: float(value) for name, value in numbers.items()}
    line = json.dumps({"step": step, "time": round(time.time(), 3), **values})
    with tf.io.gfile.GFile(path, "a") as file:
        file.write(line + "\n")


def scalar_summary(numbers: Mapping[str, float]) -> tf.Summary:
    """The numbers as TensorBoard scalars."""
    values = [tf.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
    return tf.Summary(value=values)


def write_evaluation(folder: str, step: int, numbers: Mapping[str, float]) -> None:
    """Writes numbers of one checkpoint to a folder: for TensorBoard, and to `metrics.jsonl`.

    A checkpoint that is evaluated again replaces its line.
    """
    writer = tf.summary.FileWriter(folder)
    writer.add_summary(scalar_summary(numbers), step)
    writer.close()
    path = os.path.join(folder, METRICS_FILE)
    keep_lines(path, lambda known: known != step)
    append_line(path, step, numbers)
