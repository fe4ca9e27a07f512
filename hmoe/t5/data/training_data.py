"""The shards that training data is read in, and what opens one of them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import gin
import seqio
from t5.models import mesh_transformer

from hmoe import checks
from hmoe.compat import patches
from hmoe.compat.stack import tf
from hmoe.config import Configuration, configuration, setting
from hmoe.t5.data.shards import WHOLE, Shard

# Distance of the seeds of two shards, far above the number of random steps of a task, which SeqIO
# seeds with the numbers that follow.
_SEED_DISTANCE = 1_000_003

# Returns the dataset of sequences of a shard, without end.
OpenShard = Callable[[Shard], tf.data.Dataset]


@gin.configurable("TrainingData", module="hmoe")
@configuration()
class TrainingData(Configuration):
    """How training data is divided among processes."""

    num_shards: int = setting(
        1,
        doc="""Shards that training examples are divided into, each of which is shuffled and packed
        by itself and fills as many rows of every batch as the others. A process reads those of its
        own rows alone, so a multiple of the parts that the layout splits the batch into is best.
        Examples come in the same order on any number of processes, and in another one with another
        number of shards. Where it does not divide the batch size, their greatest common divisor is
        used. 1 is the order of T5, in which every process reads all examples.""",
        unit="shards",
        source="hmoe",
        check=checks.positive_int,
    )

    def error_prefix(self) -> str:
        """Returns the name of the class in gin."""
        return "hmoe.TrainingData"

    def shards_of(self, dataset_fn: Callable[..., tf.data.Dataset], batch_size: int) -> int:
        """Returns the number of shards that batches are made of.

        Args:
          dataset_fn: T5's `train_dataset_fn`.
          batch_size: rows of a batch.
        """
        return math.gcd(self.num_shards, batch_size) if can_shard(dataset_fn) else 1


def can_shard(dataset_fn: Callable[..., tf.data.Dataset]) -> bool:
    """Returns whether a `train_dataset_fn` can read one shard.

    T5's own function can, and so can one that takes an argument `shard_info`, of SeqIO's class. Of
    any other it is not known where its examples come from.
    """
    return is_of_t5(dataset_fn) or _takes_shard(dataset_fn)


def opener(
    dataset_fn: Callable[..., tf.data.Dataset], seed: int | None = None, **arguments: Any
) -> OpenShard:
    """Returns a function that opens one shard of training data.

    Args:
      dataset_fn: T5's `train_dataset_fn`.
      seed: seed of T5's own function where it has none; None leaves the order to chance.
      **arguments: its arguments.
    """

    def open_shard(shard: Shard) -> tf.data.Dataset:
        if is_of_t5(dataset_fn):
            with _reading(shard, seed):
                dataset = dataset_fn(**arguments)
        elif _takes_shard(dataset_fn):
            dataset = dataset_fn(**arguments, shard_info=_info(shard))
        else:
            dataset = dataset_fn(**arguments)
        dataset = dataset.repeat()
        return dataset if shard == WHOLE else dataset.concatenate(_end(dataset, shard))

    return open_shard


def is_of_t5(dataset_fn: Callable[..., tf.data.Dataset]) -> bool:
    """Returns whether a `train_dataset_fn` is T5's own."""
    return _unwrapped(dataset_fn) is _unwrapped(mesh_transformer.mesh_train_dataset_fn)


def _takes_shard(dataset_fn: Callable[..., tf.data.Dataset]) -> bool:
    return "shard_info" in inspect.signature(dataset_fn).parameters


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function without gin's wrapper and without arguments that are given to it."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function)


@contextlib.contextmanager
def _reading(shard: Shard, seed: int | None) -> Iterator[None]:
    """Makes SeqIO read a shard, with a seed of its own, for as long as the context is open.

    T5's function has no argument for it. The shards of a mixture also draw its tasks in different
    orders; else all rows of a batch would be of one task.

    Args:
      shard: the shard.
      seed: seed where the caller of SeqIO gives none; None leaves the order to chance.
    """
    if shard == WHOLE and seed is None:
        yield
        return
    with (
        patches.TASK_DATASET.replaced_by(_of_shard(seqio.Task.get_dataset, shard, seed)),
        patches.MIXTURE_DATASET.replaced_by(_of_shard(seqio.Mixture.get_dataset, shard, seed)),
    ):
        yield


def _of_shard(
    get_dataset: Callable[..., tf.data.Dataset], shard: Shard, seed: int | None
) -> Callable[..., tf.data.Dataset]:
    """Returns a method of SeqIO's tasks or mixtures that reads a shard in place of the whole."""
    signature = inspect.signature(get_dataset)

    @functools.wraps(get_dataset)
    def get_shard(self: Any, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        arguments = signature.bind(self, *args, **kwargs).arguments
        if arguments.get("shard_info") is None:  # not a task that a mixture reads
            own = arguments.get("seed")
            own = seed if own is None else own
            arguments["seed"] = None if own is None else own + shard.index * _SEED_DISTANCE
            arguments["shard_info"] = _info(shard)
        if "shuffle_buffer_size" in signature.parameters:
            # A shard has so many times fewer examples; their buffers take the memory of one.
            size = arguments.get("shuffle_buffer_size") or self.shuffle_buffer_size
            arguments["shuffle_buffer_size"] = size and math.ceil(size / shard.count)
        return get_dataset(**arguments)

    return get_shard


def _info(shard: Shard) -> seqio.ShardInfo:
    return seqio.ShardInfo(index=shard.index, num_shards=shard.count)


def _end(dataset: tf.data.Dataset, shard: Shard) -> tf.data.Dataset:
    """Returns an element after those of an endless shard, which raises since it has none."""
    message = (
        f"shard {shard.index} of {shard.count} of the training data has no example; there are too "
        "few for so many: set hmoe.TrainingData.num_shards to a lower number"
    )

    def fail(number: tf.Tensor) -> Any:
        with tf.control_dependencies([tf.debugging.Assert(number < 0, [message])]):
            return tf.nest.map_structure(
                lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype),
                dataset.element_spec,
            )

    return tf.data.Dataset.range(1).map(fail)
