"""Shards of a stream of examples, which different processes can read apart from one another."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several parts that hold each example of a stream once between them.

    Attributes:
      index: number of the shard, from 0.
      count: number of shards.
    """

    index: int = 0
    count: int = 1

    def has_digest(self, digest: int) -> bool:
        """Returns whether the shard holds the examples whose text has a digest."""
        return digest % self.count == self.index

    def of_rows(self, rows: Iterable[T], run: int = 1) -> Iterator[T]:
        """Yields the rows of the shard.

        Args:
          rows: all rows.
          run: neighbouring rows that stay together; the shards take turns at such runs.
        """
        if self.count == 1:
            return iter(rows)
        turns = [number // run == self.index for number in range(run * self.count)]
        return itertools.compress(rows, itertools.cycle(turns))


WHOLE = Shard()
