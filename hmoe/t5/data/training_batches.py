"""Batches of training data, of which a process of a mesh reads only the rows that it needs.

Rows of a batch are divided evenly among the shards of the data, in order: of a batch of 32 and 8
shards, rows 0 to 3 are of shard 0, rows 4 to 7 of shard 1, and so on. Shards depend on nothing but
the data and the number of shards, so that batches are the same on any number of processes, and a
run can go on with another number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hmoe.compat.stack import tf
from hmoe.t5.data import training_data
from hmoe.t5.data.shards import WHOLE, Shard
from hmoe.t5.data.training_data import OpenShard, TrainingData


def train_model(
    estimator: Any,
    vocabulary: Any,
    sequence_length: Mapping[str, int],
    batch_size: int,
    train_dataset_fn: Callable[..., tf.data.Dataset],
    train_steps: int,
    ensemble_inputs: int | None,
    dataset_split: str = "train",
    skip_seen_data: bool = False,
    seen_data_init_step: int = 0,
    checkpoint_input_pipeline: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Trains a model like the function of Mesh TensorFlow of this name, on sharded data.

    Where the estimator has a method `local_rows`, it is asked which rows of a batch this process
    needs. A dataset function that has no seed then takes the step at which training begins for one,
    since processes must not differ in their order.

    Args:
      estimator: the estimator to train.
      vocabulary: vocabulary of inputs and targets, or a pair of them.
      sequence_length: tokens of each feature.
      batch_size: sequences of a batch of the whole mesh.
      train_dataset_fn: returns the dataset of sequences.
      train_steps: the global step to stop at.
      ensemble_inputs: models of an ensemble, each of which gets batches of its own; or None.
      dataset_split: split of the data.
      skip_seen_data: whether a run that is resumed goes on behind the examples it has seen.
      seen_data_init_step: the step at which the run began with the first example.
      checkpoint_input_pipeline: not supported, as the command says before it comes here.
      say: prints a line for the user.
    """
    del checkpoint_input_pipeline
    num_rows = batch_size * (ensemble_inputs or 1)

    def input_fn(params: object) -> tf.data.Dataset:
        del params
        local_rows = getattr(estimator, "local_rows", None)
        rows = local_rows(num_rows) if local_rows else None
        first = _first_step(estimator)
        skipped = max(0, first - seen_data_init_step) if skip_seen_data else 0
        num_shards = TrainingData().shards_of(train_dataset_fn, num_rows)
        open_shard = training_data.opener(
            train_dataset_fn,
            seed=None if rows is None else first,
            sequence_length=sequence_length,
            vocabulary=vocabulary,
            dataset_split=dataset_split,
        )
        if rows is not None:
            _warn_of_surplus(rows, num_shards, num_rows, say)
        return batches(open_shard, num_shards, num_rows, rows, skipped)

    estimator.train(input_fn=input_fn, max_steps=train_steps, hooks=[])


def _first_step(estimator: Any) -> int:
    """Returns the step at which training begins."""
    if estimator.latest_checkpoint() is None:
        return 0
    return int(estimator.get_variable_value("global_step"))


def batches(
    open_shard: OpenShard,
    num_shards: int,
    batch_size: int,
    rows: Sequence[int] | None = None,
    skipped: int = 0,
) -> tf.data.Dataset:
    """Returns the batches of training data, or some of their rows.

    Args:
      open_shard: opens one shard of the data; called for those alone that hold the rows.
      num_shards: number of shards, which divides the batch size.
      batch_size: rows of a whole batch.
      rows: the rows that are needed, by their numbers in a whole batch, each once and ascending;
        None for all.
      skipped: batches to leave out at the start.

    Returns:
      A dataset of batches, [len(rows), length] for each feature.
    """
    size = batch_size // num_shards
    parts = []
    for index, wanted in _rows_by_shard(range(batch_size) if rows is None else rows, size).items():
        shard = Shard(index, num_shards) if num_shards > 1 else WHOLE
        dataset = open_shard(shard)
        if skipped:
            dataset = dataset.skip(skipped * size)
        dataset = dataset.batch(size, drop_remainder=True)
        parts.append(dataset if len(wanted) == size else pick_rows(dataset, wanted))
    if len(parts) > 1:
        # So that shards are prepared beside one another.
        together = tuple(part.prefetch(1) for part in parts)
        parts = [tf.data.Dataset.zip(together).map(_joined)]
    return parts[0].prefetch(tf.data.AUTOTUNE)


def pick_rows(batches: tf.data.Dataset, rows: Sequence[int]) -> tf.data.Dataset:
    """Keeps some rows of each batch.

    Args:
      batches: dataset of batches, whose features have one row of each example.
      rows: numbers of the rows that are kept, in the order in which they are wanted.
    """

    def pick(features: Any) -> Any:
        return tf.nest.map_structure(lambda feature: tf.gather(feature, list(rows)), features)

    return batches.map(pick, num_parallel_calls=tf.data.AUTOTUNE)


def _rows_by_shard(rows: Sequence[int], size: int) -> dict[int, list[int]]:
    """Returns the rows of each shard that has any, numbered within it."""
    found: dict[int, list[int]] = {}
    for row in rows:
        found.setdefault(row // size, []).append(row % size)
    return found


def _joined(*parts: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: tf.concat([part[name] for part in parts], 0) for name in parts[0]}


def _warn_of_surplus(
    rows: Sequence[int], num_shards: int, batch_size: int, say: Callable[[str], None]
) -> None:
    """Warns of data that a process reads and does not need."""
    size = batch_size // num_shards
    num_read = len(_rows_by_shard(rows, size)) * size
    if num_read > len(rows):
        say(
            f"Warning: each process reads {num_read} sequences a batch and needs {len(rows)} of "
            f"them, since the data is in {num_shards} shards; set hmoe.TrainingData.num_shards to "
            f"{batch_size // math.gcd(len(rows), batch_size)} or a multiple"
        )
