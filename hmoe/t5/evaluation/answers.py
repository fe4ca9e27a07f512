"""Answers to lines of text: typed one by one, or from a file."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.evaluation.evaluate import as_text
from hmoe.t5.sessions.estimator import SessionEstimator

Ids = dict[str, np.ndarray]


class Answerer:
    """Keeps a model ready in a session, and answers batches of lines.

    Args:
      estimator: of the model; its batch size is that of the session.
      checkpoint_path: path prefix of the checkpoint; None for the newest.
    """

    def __init__(self, estimator: SessionEstimator, checkpoint_path: str | None = None):
        self._settings = estimator.settings
        self._questions: queue.Queue[list[str] | None] = queue.Queue()
        self._results = estimator.predict(self._input_fn, checkpoint_path)

    def answer(self, lines: list[str]) -> list[str]:
        """The answers to lines, no more of them than a batch holds."""
        self._questions.put(lines)
        return [as_text(self._decoded(next(self._results)["outputs"])) for _ in lines]

    def close(self) -> None:
        """Ends the session."""
        self._questions.put(None)
        for _ in self._results:
            pass

    def _decoded(self, output: Any) -> Any:
        if isinstance(output, bytes):
            return output
        vocabulary = utils.targets_vocabulary(self._settings.vocabulary)
        return vocabulary.decode([int(i) for i in output])

    def _input_fn(self, params: dict[str, Any]) -> tf.data.Dataset:
        del params
        length = self._settings.sequence_length["inputs"]
        types = {"inputs": tf.int32, "predict_batch_size": tf.int32}
        shapes = {"inputs": [self._settings.batch_size, length], "predict_batch_size": []}
        return tf.data.Dataset.from_generator(self._batches, types, shapes)

    def _batches(self) -> Iterator[Ids]:
        for lines in iter(self._questions.get, None):
            yield {
                "inputs": self._encode(lines),
                "predict_batch_size": np.array(len(lines), np.int32),
            }

    def _encode(self, lines: list[str]) -> np.ndarray:
        """Ids int32 [batch, length]; rows beyond the lines are padding."""
        settings = self._settings
        vocabulary = utils.inputs_vocabulary(settings.vocabulary)
        rows = np.zeros([settings.batch_size, settings.sequence_length["inputs"]], np.int32)
        for row, line in zip(rows, lines):
            ids = vocabulary.encode(line.strip())
            # A language model goes on from its input, which therefore does not end.
            ids = ids if settings.model_type == "lm" else [*ids, vocabulary.eos_id]
            row[: len(ids)] = ids[: len(row)]
        return rows


def answer_lines(answerer: Answerer, lines: Iterable[str], batch_size: int) -> Iterator[str]:
    """Answers lines in batches, in their order."""
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) == batch_size:
            yield from answerer.answer(batch)
            batch = []
    if batch:
        yield from answerer.answer(batch)


def smallest_batch(estimator: SessionEstimator) -> int:
    """Rows that each part of the mesh needs one of."""
    return int(estimator.settings.mesh_shape.size)


def converse(answerer: Answerer, ask: Callable[[], str | None], say: Callable[[str], None]) -> None:
    """Answers line after line until there is none.

    Args:
      answerer: of the model.
      ask: returns the next line, or None at the end.
      say: takes the answers.
    """
    for line in iter(ask, None):
        if line.strip():
            say(answerer.answer([line])[0])
