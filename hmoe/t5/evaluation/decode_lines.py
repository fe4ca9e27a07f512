"""Decodes lines of text: typed one by one, from a file, or as they arrive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.data.cut_counts import CutCount
from hmoe.t5.sessions.estimator import SessionEstimator

Batch = dict[str, np.ndarray]

# How long a batch that is not full waits for another line, in seconds.
_PATIENCE = 0.1


class Line(NamedTuple):
    """A line of text, with its number from 1."""

    number: int
    text: str

    @property
    def is_blank(self) -> bool:
        """Whether the line is nothing but white space, and gets a blank answer."""
        return not self.text.strip()


class LineDecoder:
    """Keeps a model ready in a session, and decodes batches of lines with it.

    Args:
      estimator: the model; its batch size is the session's.
      checkpoint_path: a checkpoint's path prefix; None for the newest.

    Attributes:
      batch_size: number of lines that one call can take.
      cut: counts the lines that are longer than the model reads.
    """

    def __init__(self, estimator: SessionEstimator, checkpoint_path: str | None = None):
        self._settings = estimator.settings
        self.batch_size = estimator.settings.batch_size
        self.cut = CutCount("lines", "inputs", self._settings.sequence_length["inputs"])
        self._waiting: queue.Queue[Batch | None] = queue.Queue()
        self._results = estimator.predict(self._input_fn, checkpoint_path)

    def decode(self, lines: Sequence[Line]) -> list[str]:
        """Returns the output for each line; a call takes at most one batch of lines."""
        # Encoded here, since an error in TensorFlow's thread would reach the user as TensorFlow's.
        self._waiting.put(
            {"inputs": self._encode(lines), "predict_batch_size": np.array(len(lines), np.int32)}
        )
        return [self._text(next(self._results)["outputs"]) for _ in lines]

    def close(self) -> None:
        """Ends the session, if any line began one."""
        if not self.cut.total:
            return
        self._waiting.put(None)
        for _ in self._results:
            pass

    def _text(self, ids: np.ndarray) -> str:
        vocabulary = utils.targets_vocabulary(self._settings.vocabulary)
        return vocabulary.decode([int(i) for i in ids])

    def _input_fn(self, params: dict[str, object]) -> tf.data.Dataset:
        del params
        length = self._settings.sequence_length["inputs"]
        types = {"inputs": tf.int32, "predict_batch_size": tf.int32}
        shapes = {"inputs": [self._settings.batch_size, length], "predict_batch_size": []}
        return tf.data.Dataset.from_generator(lambda: iter(self._waiting.get, None), types, shapes)

    def _encode(self, lines: Sequence[Line]) -> np.ndarray:
        """Returns ids int32 [batch, length], whose rows after the lines are padding."""
        settings = self._settings
        vocabulary = utils.inputs_vocabulary(settings.vocabulary)
        rows = np.zeros([settings.batch_size, settings.sequence_length["inputs"]], np.int32)
        for row, line in zip(rows, lines):
            ids = vocabulary.encode(line.text.strip())
            # A language model continues its input, which must not end.
            ids = ids if settings.model_type == "lm" else [*ids, vocabulary.eos_id]
            self.cut.add(len(ids), line.number)
            row[: len(ids)] = ids[: len(row)]
        return rows


def decode_batches(decoder: LineDecoder, batches: Iterable[Sequence[Line]]) -> Iterator[str]:
    """Yields the output for each line, in the order of the lines; blank for a blank line."""
    for batch in batches:
        texts = [line for line in batch if not line.is_blank]
        outputs = iter(decoder.decode(texts) if texts else [])
        for line in batch:
            yield "" if line.is_blank else next(outputs)


def full_batches(lines: Iterable[str], batch_size: int) -> Iterator[list[Line]]:
    """Yields batches of lines that are all there; blank lines among them take up no room."""
    batch: list[Line] = []
    count = 0
    for number, text in enumerate(lines, 1):
        batch.append(Line(number, text))
        count += not batch[-1].is_blank
        if count == batch_size:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


class _End(NamedTuple):
    """The end of the lines that arrive, with the error that ended them, if there was one."""

    error: BaseException | None


def arriving_batches(lines: Iterable[str], batch_size: int) -> Iterator[list[Line]]:
    """Yields batches of lines as they arrive; one that is not full waits only a moment for more.

    So a program that writes a line to a pipe and waits for its answer gets it.

    Raises:
      BaseException: what `lines` raised, once the lines before it have been yielded.
    """
    arrived: queue.Queue[str | _End] = queue.Queue(2 * batch_size)
    threading.Thread(target=_pass_on, args=(lines, arrived), daemon=True).start()
    number = 0
    end = None
    while end is None:
        texts, end = _arrived(arrived, batch_size)
        if texts:
            yield [Line(number + i, text) for i, text in enumerate(texts, 1)]
        number += len(texts)
    if end.error:
        raise end.error


def _pass_on(lines: Iterable[str], arrived: queue.Queue[str | _End]) -> None:
    """Puts each line into a queue, and then the end."""
    try:
        for line in lines:
            arrived.put(line)
    except BaseException as error:
        arrived.put(_End(error))
    else:
        arrived.put(_End(None))


def _arrived(arrived: queue.Queue[str | _End], batch_size: int) -> tuple[list[str], _End | None]:
    """Waits for a line, and returns it with those that follow at once, and the end if it came."""
    texts: list[str] = []
    while len(texts) < batch_size:
        try:
            item = arrived.get(timeout=_PATIENCE if texts else None)
        except queue.Empty:
            break
        if isinstance(item, _End):
            return texts, item
        texts.append(item)
    return texts, None


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
    for number, text in enumerate(iter(read, None), 1):
        line = Line(number, text)
        if not line.is_blank:
            say(decoder.decode([line])[0])
