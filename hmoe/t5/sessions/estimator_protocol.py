"""The estimator that T5's functions train, evaluate and decode with, as a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from hmoe.compat.stack import tf

# Receives the parameters that `TPUEstimator` passes (empty elsewhere); returns batches.
InputFn = Callable[[dict[str, object]], tf.data.Dataset]


class ServingInputReceiver(Protocol):
    """The inputs of an exported model, as T5's `export_model` makes them.

    Attributes:
      features: int32 [batch, length] each, for the model.
      receiver_tensors: what a request feeds, such as strings [batch].
    """

    features: dict[str, tf.Tensor]
    receiver_tensors: dict[str, tf.Tensor]


class Estimator(Protocol):
    """The methods that T5's functions call to train, evaluate, decode and export a model.

    `SessionEstimator` has them on CPUs and GPUs, TensorFlow's `TPUEstimator` on TPUs.
    """

    def train(
        self, input_fn: InputFn, max_steps: int, hooks: Sequence[tf.train.SessionRunHook] = ()
    ) -> Estimator:
        """Trains until the global step is `max_steps`."""

    def predict(
        self, input_fn: InputFn, checkpoint_path: str | None = None
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields predictions, or scores, for one row after another."""

    def evaluate(
        self,
        input_fn: InputFn,
        steps: int | None = None,
        checkpoint_path: str | None = None,
        name: str | None = None,
    ) -> Mapping[str, float]:
        """Returns metrics by teacher forcing."""

    def export_saved_model(
        self,
        export_dir: str,
        serving_input_fn: Callable[[], ServingInputReceiver],
        checkpoint_path: str | None = None,
    ) -> str:
        """Exports a SavedModel and returns its folder."""

    def latest_checkpoint(self) -> str | None:
        """Returns the path prefix of the newest checkpoint, or None."""

    def get_variable_value(self, name: str) -> np.ndarray:
        """Returns a variable's value in the newest checkpoint."""
