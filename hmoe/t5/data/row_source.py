"""A SeqIO data source of rows that Python yields, any shard of which can be read by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import seqio

from hmoe.compat.stack import tf
from hmoe.t5.data.shards import WHOLE, Shard

# Rows pass from a generator to TensorFlow in blocks: passing one at a time takes ten times as long.
_BLOCK_ROWS = 256

# One string for each field.
Row = Sequence[str]
# Looks up the settings of a split, and returns a function that reads the rows of a shard anew at
# each call.
RowReader = Callable[[str, Shard], Callable[[], Iterable[Row]]]


class RowSource(seqio.DataSource):
    """Rows that Python yields, as a dataset of {field: string}.

    SeqIO's own source of this kind, `FunctionDataSource`, has no shards: each reader of a part
    would read all rows.

    Args:
      read: reads the rows.
      fields: the name of each string of a row.
      splits: the names of the splits.
    """

    def __init__(self, read: RowReader, fields: tuple[str, ...], splits: Sequence[str]):
        super().__init__(splits=splits)
        self._read = read
        self._fields = fields

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """True: rows can be divided into any number of shards."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns one name, since rows are not divided into files."""
        return [split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """Returns a dataset of {field: string}, which reads rows as they are consumed.

        Args:
          split: name of the split.
          shuffle: not used; the order of the rows is fixed, and SeqIO shuffles them afterwards.
          seed: not used.
          shard_info: the shard; None for all rows. A shard that would hold no row holds all, so
            that a few examples can be shared out too.
          sequence_length: not used.
          use_cached: not used.
          num_epochs: not used; SeqIO repeats the rows afterwards.
        """
        del shuffle, seed, sequence_length, use_cached, num_epochs
        shard = Shard(shard_info.index, shard_info.num_shards) if shard_info else WHOLE
        read, read_all = self._read(split, shard), self._read(split, WHOLE)

        def blocks() -> Iterator[dict[str, list[str]]]:
            is_empty = True
            for block in _blocks(read(), self._fields):
                is_empty = False
                yield block
            if is_empty and shard != WHOLE:
                yield from _blocks(read_all(), self._fields)

        dataset = tf.data.Dataset.from_generator(
            blocks,
            output_signature={field: tf.TensorSpec([None], tf.string) for field in self._fields},
        )
        return dataset.unbatch()


def _blocks(rows: Iterable[Row], fields: Sequence[str]) -> Iterator[dict[str, list[str]]]:
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == _BLOCK_ROWS:
            yield dict(zip(fields, map(list, zip(*block))))
            block = []
    if block:
        yield dict(zip(fields, map(list, zip(*block))))
