"""Decodes lines of text: typed one by one, or from a file."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.evaluation.task_examples import as_text
from hmoe.t5.sessions.estimator import SessionEstimator

Batch = dict[str, np.ndarray]


class LineDecoder:
    """Keeps a model ready in a session, and decodes batches of lines with it.

    Args:
      estimator: the model; its batch size is the session's.
      checkpoint_path: a checkpoint's path prefix; None for the newest.
    """

    def __init__(self, estimator: SessionEstimator, checkpoint_path: str | None = None):
        self._settings = estimator.settings
        self._waiting: queue.Queue[list[str] | None] = queue.Queue()
        self._results = estimator.predict(self._input_fn, checkpoint_path)

    def decode(self, lines: list[str]) -> list[str]:
        """Returns the output for each line; a call takes at most one batch of lines."""
        self._waiting.put(lines)
        return [self._text(next(self._results)["outputs"]) for _ in lines]

    def close(self) -> None:
        """Ends the session."""
        self._waiting.put(None)
        for _ in self._results:
            pass

    def _text(self, output: bytes | np.ndarray) -> str:
        """Decodes the ids of a model whose graph does not return text."""
        if isinstance(output, bytes):
            return as_text(output)
        vocabulary = utils.targets_vocabulary(self._settings.vocabulary)
        return as_text(vocabulary.decode([int(i) for i in output]))

    def _input_fn(self, params: dict[str, object]) -> tf.data.Dataset:
        del params
        length = self._settings.sequence_length["inputs"]
        types = {"inputs": tf.int32, "predict_batch_size": tf.int32}
        shapes = {"inputs": [self._settings.batch_size, length], "predict_batch_size": []}
        return tf.data.Dataset.from_generator(self._batches, types, shapes)

    def _batches(self) -> Iterator[Batch]:
        """Yields the features of each batch of lines as it comes, until there is None."""
        for lines in iter(self._waiting.get, None):
            yield {
                "inputs": self._encode(lines),
                "predict_batch_size": np.array(len(lines), np.int32),
            }

    def _encode(self, lines: list[str]) -> np.ndarray:
        """Returns ids int32 [batch, length], whose rows after the lines are padding."""
        settings = self._settings
        vocabulary = utils.inputs_vocabulary(settings.vocabulary)
        rows = np.zeros([settings.batch_size, settings.sequence_length["inputs"]], np.int32)
        for row, line in zip(rows, lines):
            ids = vocabulary.encode(line.strip())
            # A language model continues its input, which must not end.
            ids = ids if settings.model_type == "lm" else [*ids, vocabulary.eos_id]
            row[: len(ids)] = ids[: len(row)]
        return rows


def decode_lines(decoder: LineDecoder, lines: Iterable[str], batch_size: int) -> Iterator[str]:
    """Decodes lines in batches, and yields the outputs in the order of the lines."""
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) == batch_size:
            yield from decoder.decode(batch)
            batch = []
    if batch:
        yield from decoder.decode(batch)


def smallest_batch(estimator: SessionEstimator) -> int:
    """Returns the smallest batch size of a mesh, which has one row for each of its processors."""
    return int(estimator.settings.mesh_shape.size)


def decode_interactively(
    decoder: LineDecoder, read: Callable[[], str | None], say: Callable[[str], None]
) -> None:
    """Decodes line after line until there is none; blank lines are skipped.

    Args:
      decoder: the model.
      read: returns the next line, or None at the end.
      say: prints an output.
    """
    for line in iter(read, None):
        if line.strip():
            say(decoder.decode([line])[0])
