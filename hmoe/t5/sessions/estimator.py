"""The trainer: a thin loop over TensorFlow's own sessions, the same under every TensorFlow.

`SessionEstimator` has the methods by which T5's functions train, answer, score, evaluate and
export a model, so that they work with it as with `TPUEstimator`.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hmoe import compat
from hmoe.compat.stack import tf
from hmoe.t5.graphs import build
from hmoe.t5.graphs.model_settings import EVAL, PREDICT, SCORE, TRAIN, ModelSettings
from hmoe.t5.graphs.training import TrainingGraph
from hmoe.t5.sessions import checkpoints, hooks, run_metrics
from hmoe.t5.sessions.session_settings import SessionSettings

_DOING = {
    TRAIN: "Building the model ...",
    EVAL: "Evaluating with the right answers given ...",
    PREDICT: "Preparing to answer ...",
    SCORE: "Preparing to score ...",
}

InputFn = Callable[[dict[str, Any]], "tf.data.Dataset"]


class SessionEstimator:
    """Trains and uses one model, whose checkpoints are in `settings.model_dir`.

    Args:
      settings: of the model.
      session: of sessions and reports.
    """

    def __init__(self, settings: ModelSettings, session: SessionSettings | None = None):
        self.settings = settings
        self.session = session or SessionSettings()

    def with_batch_size(self, batch_size: int) -> SessionEstimator:
        """The same model with another batch size, for answering."""
        settings = dataclasses.replace(self.settings, batch_size=batch_size)
        return SessionEstimator(settings, self.session)

    def latest_checkpoint(self) -> str | None:
        """Path prefix of the newest checkpoint, or None."""
        return checkpoints.latest(self.settings.model_dir)

    def get_variable_value(self, name: str) -> np.ndarray:
        """A variable's value in the newest checkpoint.

        Raises:
          ValueError: there is no checkpoint.
        """
        path = checkpoints.require_latest(self.settings.model_dir)
        return tf.train.load_checkpoint(path).get_tensor(name)

    def train(
        self, input_fn: InputFn, max_steps: int, hooks: Sequence[tf.train.SessionRunHook] = ()
    ) -> SessionEstimator:
        """Trains until the global step is `max_steps`, from the newest checkpoint if any.

        Args:
          input_fn: a function of `params` that returns a dataset of batches.
          max_steps: the global step to stop at.
          hooks: more session hooks.

        Returns:
          This estimator.

        Raises:
          ValueError: the checkpoint is of another architecture, or the loss is not a number.
          KeyboardInterrupt: the user stopped it; a checkpoint was saved.
        """
        path = self.latest_checkpoint()
        step = checkpoints.step_of(path) if path else 0
        if step >= max_steps:
            self.session.say(
                f"{path} is at step {step}, and training is to stop at step {max_steps}: "
                "nothing to train; for more steps, raise utils.run.train_steps"
            )
            return self
        with self._graph(), self.session.interruptible() as interrupted:
            graph = self._build(input_fn, TRAIN)
            saver = checkpoints.MeshSaver(graph.lowering, self.settings.keep_checkpoint_max)
            if path:
                checkpoints.check_fits(path, optimizer_too=True)
                self.session.say(f"Going on from {path}")
            else:
                taken_over = checkpoints.start_from(self.settings)
                if taken_over:
                    self.session.say(taken_over)
            self._train_loop(graph, saver, step, max_steps, list(hooks), interrupted)
            if interrupted():
                self.session.say(
                    f"Stopped; the last checkpoint is {self.latest_checkpoint()}. "
                    "To go on from it, give the same command again"
                )
                raise KeyboardInterrupt
        return self

    def _train_loop(
        self,
        graph: TrainingGraph,
        saver: checkpoints.MeshSaver,
        first_step: int,
        max_steps: int,
        more_hooks: list[tf.train.SessionRunHook],
        interrupted: Callable[[], bool],
    ) -> None:
        all_hooks = hooks.training_hooks(
            self.settings, self.session, graph, saver, first_step, max_steps, interrupted
        )
        self.session.say("Preparing the first step ...")
        with tf.train.MonitoredTrainingSession(
            checkpoint_dir=self.settings.model_dir,
            master=self.session.master,
            scaffold=tf.train.Scaffold(saver=saver.saver),
            hooks=all_hooks + more_hooks,
            save_checkpoint_secs=None,
            save_checkpoint_steps=None,
            save_summaries_steps=None,
            save_summaries_secs=None,
            log_step_count_steps=None,
            config=self.session.config(),
        ) as session:
            while not session.should_stop():
                session.run(graph.train_op)

    def predict(
        self, input_fn: InputFn, checkpoint_path: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Answers, or scores if the settings say `score_in_predict_mode`.

        Args:
          input_fn: a function of `params` that returns a dataset of batches.
          checkpoint_path: a checkpoint's path prefix; None for the newest.

        Yields:
          For each row a dict of "inputs" and "outputs", or of "targets" and "scores".

        Raises:
          ValueError: no checkpoint, or one of another architecture.
        """
        mode = SCORE if self.settings.score_in_predict_mode else PREDICT
        with self._graph():
            graph = self._build(input_fn, mode)
            fetches = {"predictions": graph.predictions, "below_zero": graph.below_zero}
            batches = self._run_to_end(graph, fetches, checkpoint_path)
            for number, fetched in enumerate(batches, 1):
                run_metrics.check_probabilities(float(fetched["below_zero"]), f"in batch {number}")
                batch = fetched["predictions"]
                for row in range(len(next(iter(batch.values())))):
                    yield {name: values[row] for name, values in batch.items()}

    def evaluate(
        self,
        input_fn: InputFn,
        steps: int | None = None,
        checkpoint_path: str | None = None,
        name: str | None = None,
    ) -> dict[str, float]:
        """Evaluates by teacher forcing, with sums over all batches divided once at the end.

        Args:
          input_fn: a function of `params` that returns a dataset of batches.
          steps: batches at most; it ends before at the data's end or at a batch of padding.
          checkpoint_path: a checkpoint's path prefix; None for the newest.
          name: of the data; numbers go to `model_dir/eval_<name>`, for TensorBoard and as JSON.

        Returns:
          The numbers of `measures.evaluation_measures`, and "global_step".

        Raises:
          ValueError: no checkpoint, one of another architecture, or nothing to evaluate.
        """
        path = checkpoint_path or checkpoints.require_latest(self.settings.model_dir)
        collector = run_metrics.SumCollector()
        with self._graph():
            graph = self._build(input_fn, EVAL)
            for sums in self._run_to_end(graph, graph.sums, path):
                if not sums[("", "targets")]:
                    break
                run_metrics.check_probabilities(
                    float(sums[("", "below_zero")]), f"in batch {collector.count + 1}"
                )
                collector.add(sums)
                if collector.count == steps:
                    break
        numbers = run_metrics.evaluation_measures(collector)
        step = checkpoints.step_of(path)
        if name is not None:
            folder = os.path.join(self.settings.model_dir, f"eval_{name}")
            hooks.write_evaluation(folder, step, numbers)
        return {**numbers, "global_step": step}

    def export_saved_model(
        self,
        export_dir: str,
        serving_input_fn: Callable[[], Any],
        checkpoint_path: str | None = None,
    ) -> str:
        """Exports a SavedModel that takes text and gives answers or scores, for serving.

        Args:
          export_dir: the folder in which to make one named by the time.
          serving_input_fn: returns a `ServingInputReceiver`.
          checkpoint_path: a checkpoint's path prefix; None for the newest.

        Returns:
          The new folder.

        Raises:
          ValueError: no checkpoint, or one of another architecture.
        """
        path = checkpoint_path or checkpoints.require_latest(self.settings.model_dir)
        mode = SCORE if self.settings.score_in_predict_mode else PREDICT
        with self._graph() as tf_graph:
            receiver = serving_input_fn()
            graph = self._build_graph(receiver.features, mode)
            saver = checkpoints.MeshSaver(graph.lowering)
            checkpoints.check_fits(path, optimizer_too=False)
            folder = os.path.join(export_dir, str(int(time.time())))
            with tf.Session(graph=tf_graph, config=self.session.config()) as session:
                saver.saver.restore(session, path)
                session.run([tf.tables_initializer(), saver.to_slices])
                _save_model(session, folder, receiver, graph.predictions, saver)
        return folder

    def _graph(self) -> Any:
        """A new graph as the default one, seeded, so that runs begin alike."""
        compat.use_resource_variables()
        graph = tf.Graph()
        with graph.as_default():
            tf.set_random_seed(self.session.seed)
            tf.train.create_global_step()
        return graph.as_default()

    def _build(self, input_fn: InputFn, mode: str) -> Any:
        self.session.say(_DOING[mode])
        with tf.device("/cpu:0"):
            iterator = tf.data.make_initializable_iterator(input_fn({}))
            tf.add_to_collection(tf.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
            features = iterator.get_next()
        return self._build_graph(features, mode)

    def _build_graph(self, features: dict[str, tf.Tensor], mode: str) -> Any:
        return build.build_graph(
            self.settings, features, mode, reuse_graph=self.session.reuse_graph
        )

    def _run_to_end(
        self, graph: Any, fetches: dict[Any, Any], checkpoint_path: str | None
    ) -> Iterator[dict[Any, Any]]:
        """Runs the fetches on batch after batch until the data ends."""
        path = checkpoint_path or checkpoints.require_latest(self.settings.model_dir)
        saver = checkpoints.MeshSaver(graph.lowering)
        checkpoints.check_fits(path, optimizer_too=False)
        creator = tf.train.ChiefSessionCreator(
            tf.train.Scaffold(saver=saver.saver),
            master=self.session.master,
            config=self.session.config(),
            checkpoint_filename_with_path=path,
        )
        with tf.train.MonitoredSession(creator, [hooks.ToSlicesHook(saver)]) as session:
            while True:
                try:
                    result = session.run(fetches)
                except tf.errors.OutOfRangeError:
                    return
                yield result


def _save_model(
    session: tf.Session,
    folder: str,
    receiver: Any,
    predictions: dict[str, tf.Tensor],
    saver: checkpoints.MeshSaver,
) -> None:
    """Writes the SavedModel; loading it copies the saved weights onto the mesh's slices."""
    signature = tf.saved_model.predict_signature_def(receiver.receiver_tensors, predictions)
    builder = tf.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(
        session,
        [tf.saved_model.tag_constants.SERVING],
        signature_def_map={
            tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature
        },
        main_op=tf.group(tf.tables_initializer(), saver.to_slices, name="to_slices"),
        saver=saver.saver,
        strip_default_attrs=True,
    )
    builder.save()
