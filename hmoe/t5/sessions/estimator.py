"""An estimator on TensorFlow's own sessions, the same under every TensorFlow.

`SessionEstimator` has the methods by which T5's functions train, evaluate, decode, score and export
a model (`estimator_protocol.Estimator`), so these work with it as they do with `TPUEstimator`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import numpy as np

from hmoe.analysis.replay import Replay
from hmoe.compat.stack import mtf, tf
from hmoe.t5.graphs import batch_features, build
from hmoe.t5.graphs.model_settings import EVAL, PREDICT, SCORE, ModelSettings
from hmoe.t5.graphs.sums import model_sum
from hmoe.t5.graphs.tracing import TracedLayer
from hmoe.t5.layers import kept_layers
from hmoe.t5.sessions import (
    checkpoints,
    inference,
    loss_alarm,
    metrics_file,
    processes,
    replaying,
    run_metrics,
    saved_model,
    serving,
    session_graph,
    training_loop,
)
from hmoe.t5.sessions.estimator_protocol import Estimator, InputFn, ServingInputReceiver
from hmoe.t5.sessions.replaying import Replaying
from hmoe.t5.sessions.session_settings import SessionSettings
from hmoe.t5.sessions.training_folder import PLAIN, Beginning


class TracedBatch(NamedTuple):
    """The decisions about one batch.

    Attributes:
      layers: the expert layers.
      number: the number of the data that it comes from.
      tokens: int32 [batch, length], what layers read of "inputs" and "targets".
      decisions: for each layer and level what `hmoe.layer.decisions` returns.
    """

    layers: Sequence[TracedLayer]
    number: int
    tokens: Mapping[str, np.ndarray]
    decisions: Sequence[Sequence[Mapping[str, np.ndarray]]]


class SessionEstimator(Estimator):
    """Trains and runs one model, whose checkpoints are in `settings.model_dir`.

    Args:
      settings: the model's settings.
      session: settings of sessions and reports.
      beginning: how training begins in the folder. Where it begins anew, the checkpoints that are
        there count as not there, and are moved aside after the first step.
      replay: the choices of a trace, which training and evaluation take in place of the routers'
        own; None: routers choose.

    Raises:
      ValueError: the run cannot replay a trace.
    """

    def __init__(
        self,
        settings: ModelSettings,
        session: SessionSettings | None = None,
        beginning: Beginning = PLAIN,
        replay: Replay | None = None,
    ):
        self.settings = settings
        self.session = session or SessionSettings()
        self._beginning = beginning
        self._replaying: Replaying | None = None
        # Decoding and tracing have no choices to replay.
        self._replayed_settings = settings
        if replay is not None:
            replaying.check(settings, self.session)
            self._replayed_settings = dataclasses.replace(settings, replayed=replay.layers)
            self._replaying = Replaying(replay)

    def with_batch_size(self, batch_size: int) -> SessionEstimator:
        """Returns an estimator of the same model with another batch size."""
        settings = dataclasses.replace(self.settings, batch_size=batch_size)
        return SessionEstimator(settings, self.session)

    def local_rows(self, batch_size: int) -> list[int] | None:
        """Returns which rows of a training batch this process needs; None for all.

        Args:
          batch_size: number of rows of the batch.
        """
        settings = dataclasses.replace(self.settings, batch_size=batch_size)
        return batch_features.rows_of_slice(settings, self._mesh())

    def latest_checkpoint(self) -> str | None:
        """Returns the path prefix of the newest checkpoint, or None."""
        return None if self._beginning.anew else checkpoints.latest(self.settings.model_dir)

    def get_variable_value(self, name: str) -> np.ndarray:
        """Returns a variable's value in the newest checkpoint.

        Raises:
          ValueError: there is no checkpoint.
        """
        path = checkpoints.require_latest(self.settings.model_dir)
        return checkpoints.read_variable(path, name)

    def train(
        self, input_fn: InputFn, max_steps: int, hooks: Sequence[tf.train.SessionRunHook] = ()
    ) -> SessionEstimator:
        """Trains until the global step is `max_steps`, from the newest checkpoint if there is one.

        Args:
          input_fn: returns a dataset of batches.
          max_steps: the global step to stop at.
          hooks: session hooks to run beside the estimator's own.

        Returns:
          This estimator.

        Raises:
          ValueError: the checkpoint does not match the model, or the loss is not a number.
          KeyboardInterrupt: the user stopped the run; a checkpoint was saved.
        """
        beginning = self._beginning
        input_fn = self._with_choices(input_fn)
        settings = self._replayed_settings
        with self._plain_errors():
            training_loop.train(settings, self.session, input_fn, max_steps, hooks, beginning)
        # Not before: while the graph is built, the data asks for the checkpoint to go on from.
        self._beginning = dataclasses.replace(beginning, anew=False)
        return self

    def predict(
        self, input_fn: InputFn, checkpoint_path: str | None = None
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Decodes batches, or scores them if the settings have `score_in_predict_mode`.

        Args:
          input_fn: returns a dataset of batches.
          checkpoint_path: a checkpoint's path prefix; None for the newest.

        Yields:
          For each row a dict: ids "inputs" and "outputs", or ids "targets" and a number "scores".

        Raises:
          ValueError: there is no checkpoint, or it does not match the model.
        """
        mode = self._decoding_mode()
        with session_graph.new_graph(self.session.seed):
            self.session.say(f"Preparing to {'score' if mode == SCORE else 'decode'} ...")
            batch = session_graph.next_batch(input_fn)
            graph = build.build_graph(self.settings, batch, mode, self._mesh())
            fetches = (graph.predictions, graph.below_zero)
            newest = functools.partial(checkpoints.require_latest, self.settings.model_dir)
            batches = inference.run_batches(
                self.session,
                graph.lowering,
                batch,
                fetches,
                checkpoint_path or newest(),
                newer=None if checkpoint_path else newest,
            )
            for number, (predictions, below_zero) in enumerate(batches, 1):
                loss_alarm.check_probabilities(float(below_zero), f"in batch {number}")
                for row in range(len(next(iter(predictions.values())))):
                    yield {name: values[row] for name, values in predictions.items()}

    def evaluate(
        self,
        input_fn: InputFn,
        steps: int | None = None,
        checkpoint_path: str | None = None,
        name: str | None = None,
    ) -> dict[str, float]:
        """Evaluates by teacher forcing; sums over all batches are divided once, at the end.

        Args:
          input_fn: returns a dataset of batches.
          steps: maximum number of batches; the end of the data or a batch of padding ends earlier.
          checkpoint_path: a checkpoint's path prefix; None for the newest.
          name: name of the data, which makes the metrics be written to `model_dir/eval_<name>`, for
            TensorBoard and as JSON.

        Returns:
          The metrics of `run_metrics.evaluation_metrics`, and "global_step".

        Raises:
          ValueError: there is no checkpoint, it does not match the model, or the data has no
            target.
        """
        path = self._checkpoint(checkpoint_path)
        collector = run_metrics.SumCollector()
        for sums, _ in self._batch_sums([input_fn], path):
            if not sums[model_sum("targets")]:
                break
            collector.add(sums)
            if collector.count == steps:
                break
        numbers = run_metrics.evaluation_metrics(collector)
        step = checkpoints.step_of(path)
        if name is not None and processes.is_first():
            folder = os.path.join(self.settings.model_dir, f"eval_{name}")
            metrics_file.write_evaluation(folder, step, numbers, self.session.say)
        return {**numbers, "global_step": step}

    def evaluate_each(
        self, input_fns: Sequence[InputFn], checkpoint_path: str | None = None
    ) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Evaluates several sets of data by teacher forcing, with one graph.

        Args:
          input_fns: each returns a dataset of batches; all have the same features.
          checkpoint_path: a checkpoint's path prefix; None for the newest.

        Returns:
          The metrics of all data together, and those of each set.

        Raises:
          ValueError: there is no checkpoint, it does not match the model, or a set has no target.
        """
        together = run_metrics.SumCollector()
        apart = [run_metrics.SumCollector() for _ in input_fns]
        for sums, number in self._batch_sums(input_fns, self._checkpoint(checkpoint_path)):
            together.add(sums)
            apart[number].add(sums)
        each = [run_metrics.evaluation_metrics(collector) for collector in apart]
        return run_metrics.evaluation_metrics(together), each

    def _batch_sums(
        self, input_fns: Sequence[InputFn], path: str
    ) -> Iterator[tuple[run_metrics.HostSums, int]]:
        """Yields the sums of each batch, with the number of the data that it comes from."""
        with session_graph.new_graph(self.session.seed), self._plain_errors():
            self.session.say("Evaluating with teacher forcing ...")
            batch = session_graph.next_numbered_batch([*map(self._with_choices, input_fns)])
            features, number = batch
            graph = build.build_graph(self._replayed_settings, features, EVAL, self._mesh())
            batches = inference.run_batches(
                self.session, graph.lowering, batch, (graph.sums, number), path
            )
            for count, (sums, of_data) in enumerate(batches, 1):
                loss_alarm.check_probabilities(
                    float(sums[model_sum("below_zero")]), f"in batch {count}"
                )
                yield sums, int(of_data)

    def trace(self, input_fns: Sequence[InputFn], checkpoint_path: str) -> Iterator[TracedBatch]:
        """Runs several sets of data by teacher forcing, and returns who went where.

        Args:
          input_fns: each returns a dataset of batches; all have the same features.
          checkpoint_path: a checkpoint's path prefix.

        Yields:
          One batch after another.

        Raises:
          ValueError: the model has no expert layer, or the checkpoint does not match it.
        """
        with session_graph.new_graph(self.session.seed):
            batch = session_graph.next_numbered_batch(input_fns)
            features, number = batch
            graph = build.build_trace_graph(self.settings, features, self._mesh())
            fetches = (graph.tokens, graph.decisions, number)
            for tokens, decisions, of_data in inference.run_batches(
                self.session, graph.lowering, batch, fetches, checkpoint_path
            ):
                yield TracedBatch(graph.layers, int(of_data), tokens, decisions)

    def score_with_kept(
        self, input_fn: InputFn, checkpoint_path: str
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Scores batches with some experts left out.

        Args:
          input_fn: returns a dataset of pairs: a batch, and for each layer, by name, and each of
            its levels, outermost first, float32 [outer experts ..., X], 1 for experts that are
            kept, else 0.
          checkpoint_path: a checkpoint's path prefix.

        Yields:
          For each batch its log likelihoods, float32 [batch], in nats, and its target ids, int32
          [batch, length].

        Raises:
          ValueError: the checkpoint does not match the model, or a router does not choose by
            scores.
        """
        with session_graph.new_graph(self.session.seed):
            batch: Any = session_graph.next_batch(input_fn)
            features, kept = batch
            with kept_layers.given(kept):
                graph = build.build_graph(self.settings, features, SCORE, self._mesh())
            fetches = (graph.predictions["scores"], features["targets"])
            yield from inference.run_batches(
                self.session, graph.lowering, batch, fetches, checkpoint_path
            )

    def export_saved_model(
        self,
        export_dir: str,
        serving_input_fn: Callable[[], ServingInputReceiver] | None = None,
        checkpoint_path: str | None = None,
    ) -> str:
        """Exports a SavedModel that takes text and returns predictions or scores, for serving.

        Args:
          export_dir: the folder in which a folder named by the time is made.
          serving_input_fn: not called: what T5 passes takes no more rows than a batch has, and an
            exported model takes any number (`serving.build`).
          checkpoint_path: a checkpoint's path prefix; None for the newest.

        Returns:
          The new folder, which appears when it is whole.

        Raises:
          ValueError: there is no checkpoint, or it does not match the model.
        """
        del serving_input_fn
        path = self._checkpoint(checkpoint_path)
        mode = self._decoding_mode()
        with session_graph.new_graph(self.session.seed):
            self.session.say("Preparing to export ...")
            settings = serving.on_this_process(self.settings)
            features = serving.placeholders(settings, mode)
            mesh = session_graph.mesh_of(settings, self.session)
            graph = build.build_graph(settings, features, mode, mesh)
            served = serving.build(settings, mode, features, graph)
            folder = saved_model.export(self.session, graph, served, path, export_dir)
        self.session.say(f"Wrote the model to {folder}. To use it:\n")
        needs_text = serving.needs_tensorflow_text(self.settings)
        self.session.say(saved_model.example(folder, served, needs_text))
        return folder

    def _checkpoint(self, checkpoint_path: str | None) -> str:
        """Returns the checkpoint that is asked for, by default the newest."""
        return checkpoint_path or checkpoints.require_latest(self.settings.model_dir)

    def _with_choices(self, input_fn: InputFn) -> InputFn:
        """Returns a function that also reads the choices to replay, if there are any."""
        return input_fn if self._replaying is None else self._replaying.added_to(input_fn)

    def _plain_errors(self) -> AbstractContextManager[None]:
        """Passes on the error of an example whose choices are not known."""
        known = self._replaying
        return contextlib.nullcontext() if known is None else known.plain_errors()

    def _mesh(self) -> mtf.MeshImpl:
        return session_graph.mesh_of(self.settings, self.session)

    def _decoding_mode(self) -> Literal["infer", "score"]:
        return SCORE if self.settings.score_in_predict_mode else PREDICT
