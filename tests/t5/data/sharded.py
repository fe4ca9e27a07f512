"""Tasks and helpers for tests of sharded training data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import seqio
import t5.data.preprocessors
from t5.models import mesh_transformer

from hmoe.compat.stack import tf
from hmoe.t5.data import tasks, training_batches, training_data
from hmoe.t5.data.vocabularies import BYTES

BATCH = 24
LENGTHS = {"inputs": 30, "targets": 22}
# Rows that never get into a shard by themselves: how many there are is no multiple of any tested.
NUM_PAIRS = 203


def pair(number: int) -> tuple[str, str]:
    return f"in {number:03d}" + "x" * (number % 5), f"out {number:03d}" + "y" * (number % 3)


def _pairs(split, shard, number, first):
    return lambda: shard.of_rows(pair(first + index) for index in range(number))


def _texts(split, shard):
    words = ("oak", "birch", "alder", "elm", "hazel", "ash", "yew")
    text = (" ".join(words[(n * k) % 7] for k in range(1, 40)) + f" {n}" for n in range(150))
    return lambda: shard.of_rows(((line,) for line in text), run=3)


def add_pairs(
    name: str, number: int = NUM_PAIRS, first: int = 0, seen: Callable[[bytes], None] | None = None
) -> None:
    """Registers a task of short pairs, once.

    Args:
      name: the task's name.
      number: number of pairs.
      first: number of the first pair.
      seen: called with each input before it becomes tokens.
    """

    def note(dataset):
        def call(text):
            seen(text)
            return text

        def add(example):
            text = tf.numpy_function(call, [example["inputs"]], tf.string)
            text.set_shape([])
            return {**example, "inputs": text}

        return dataset.map(add)

    if name not in seqio.TaskRegistry.names():
        tasks.add_task(
            name,
            functools.partial(_pairs, number=number, first=first),
            ("inputs", "targets"),
            ("train",),
            tasks.features(BYTES, ("inputs", "targets")),
            [
                *([note] if seen else []),
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos,
            ],
            [],
            shuffle_buffer=40,
        )


def add_texts(name: str) -> None:
    """Registers a task of running text with corrupted spans, once."""
    if name not in seqio.TaskRegistry.names():
        tasks.add_task(
            name,
            _texts,
            ("targets",),
            ("train",),
            tasks.features(BYTES, ("inputs", "targets")),
            [
                functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
                t5.data.preprocessors.span_corruption,
                seqio.preprocessors.append_eos_after_trim,
            ],
            [],
            shuffle_buffer=40,
        )


def add_mixture(name: str, names: Sequence[str]) -> None:
    """Registers a mixture at equal rates, once."""
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(names), default_rate=1.0)


def dataset(
    name: str,
    num_shards: int,
    rows: Sequence[int] | None = None,
    skipped: int = 0,
    batch_size: int = BATCH,
    first_step: int | None = None,
    **arguments: object,
) -> tf.data.Dataset:
    """Returns the batches of a task, read by T5's function, or some of their rows."""
    arguments = {"seed": 3, **arguments}
    open_shard = training_data.opener(
        functools.partial(mesh_transformer.mesh_train_dataset_fn, name, **arguments),
        seed=first_step,
        sequence_length=LENGTHS,
    )
    return training_batches.batches(open_shard, num_shards, batch_size, rows, skipped)


def take(batches: tf.data.Dataset, number: int) -> list[dict[str, np.ndarray]]:
    """Returns the first batches."""
    iterator = tf.data.make_initializable_iterator(batches)
    following = iterator.get_next()
    with tf.Session() as session:
        session.run([iterator.initializer, tf.tables_initializer()])
        return [session.run(following) for _ in range(number)]


def text_of(tokens: Iterable[int]) -> str:
    """Returns the text of a row that holds one sequence of bytes."""
    return BYTES.decode([int(token) for token in tokens if token > 1])
