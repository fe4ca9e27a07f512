"""Reads the choices of a trace beside the batches of a run that replays them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from hmoe.analysis.replay import Replay, vector_sizes
from hmoe.compat.stack import tf
from hmoe.t5.graphs import batch_features
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.sessions import processes
from hmoe.t5.sessions.estimator_protocol import InputFn
from hmoe.t5.sessions.session_settings import SessionSettings

Features = Mapping[str, tf.Tensor]
Find = Callable[..., list[np.ndarray]]

_SEQUENCES = ("inputs", "targets")


class Replaying:
    """Adds the choices of a trace to batches, by the tokens of their examples."""

    def __init__(self, replay: Replay):
        self._replay = replay
        self._error: ValueError | None = None

    def added_to(self, input_fn: InputFn) -> InputFn:
        """Returns a function that reads the same batches, with features of the choices.

        They are float32 [batch, length, V] for each layer, by `batch_features.replay_name`.
        """

        def read(params: dict) -> tf.data.Dataset:
            dataset = input_fn(params)
            _refuse_packed(dataset)
            find = self._remembering_finder()
            with tf.device("/cpu:0"):
                return dataset.map(lambda features: self._with_choices(features, find))

        return read

    def _remembering_finder(self) -> Find:
        find = self._replay.finder()

        def find_or_remember(*ids: np.ndarray) -> list[np.ndarray]:
            try:
                return find(dict(zip(_SEQUENCES, ids)))
            except ValueError as error:
                # TensorFlow would wrap it in an error of its own.
                self._error = error
                raise

        return find_or_remember

    def _with_choices(self, features: Features, find: Find) -> Features:
        ids = [features[name] for name in _SEQUENCES]
        layers = self._replay.layers
        vectors = tf.numpy_function(find, ids, [tf.float32] * len(layers))
        found = dict(features)
        for layer, each in zip(layers, vectors):
            size = vector_sizes(layer)[0]
            each.set_shape([*features[layer.sequence].shape.as_list(), size])
            found[batch_features.replay_name(layer)] = each
        return found

    @contextlib.contextmanager
    def plain_errors(self) -> Iterator[None]:
        """Raises the error of an example that is not in the trace in place of TensorFlow's.

        Raises:
          ValueError: an example is not in the trace.
        """
        try:
            yield
        except tf.errors.OpError:
            if self._error is not None:
                raise self._error from None
            raise


def check(settings: ModelSettings, session: SessionSettings) -> None:
    """Raises ValueError for a run that cannot replay a trace."""
    if settings.model_type != "bitransformer":
        raise ValueError(
            "--replay needs a model with an encoder and a decoder (utils.run.model_type ="
            f" 'bitransformer'); this one is of type {settings.model_type!r}"
        )
    if settings.ensemble_inputs:
        raise ValueError(
            "--replay does not go with an ensemble (utils.run.ensemble_inputs ="
            f" {settings.ensemble_inputs}); set it to None"
        )
    if session.master or processes.current() is not None:
        raise ValueError(
            "--replay runs in one process, which looks up the examples of each batch; leave out"
            " --workers, TF_CONFIG, hmoe launch and hmoe.Session.master"
        )


def _refuse_packed(dataset: tf.data.Dataset) -> None:
    """Raises ValueError for sequences that hold several examples."""
    packed = [name for name in dataset.element_spec if name.endswith("_segmentation")]
    if packed:
        raise ValueError(
            "--replay: the data has several examples in a sequence, which a trace does not have;"
            " give each a sequence of its own with mesh_train_dataset_fn.pack = False"
        )
