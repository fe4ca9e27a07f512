"""Reads a user's file once from end to end: checks it, counts, and chooses what to hold out.

A file without validation data gives up a part of its examples: those whose input has a digest that
is a multiple of 20. If that is none of a small file's inputs, or all, one input is held out.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import NamedTuple

from hmoe.startup.data_files import lines
from hmoe.startup.data_files.digest import digest
from hmoe.storage.local_files import check_file

# One example in this many is held out.
_HOLD_OUT_ONE_IN = 20
# First lines that are likely the names of columns.
_HEADERS = {
    (first, second)
    for first in ("input", "inputs", "source", "src", "question", "text")
    for second in ("target", "targets", "trg", "tgt", "answer", "label", "output", "outputs")
}
# Number of bad lines whose messages are kept.
NUM_SHOWN = 3


class SkippedLines(list[str]):
    """Keeps the messages of the first bad lines and counts all, so that memory does not grow.

    Attributes:
      num_bad: number of bad lines.
    """

    num_bad = 0

    def append(self, message: str) -> None:
        """Counts a bad line, and keeps its message if it is one of the first."""
        self.num_bad += 1
        if len(self) < NUM_SHOWN:
            super().append(message)


@dataclasses.dataclass
class FileScan:
    """The findings of one pass over a file.

    Attributes:
      num_examples: number of examples.
      num_held_out: number of examples that the digest of their input holds out.
      smallest: the smallest digest of an input.
      num_smallest: number of examples with that input.
      max_input_bytes: longest input in UTF-8 bytes; for text, the longest block.
      max_target_bytes: longest target in UTF-8 bytes; for text, the longest block.
      first: the first example.
      num_lost: number of examples with U+FFFD, which stands for a character lost in a conversion.
      has_one_target: whether all examples have the same target.
      skipped: the bad lines.
    """

    num_examples: int = 0
    num_held_out: int = 0
    smallest: int | None = None
    num_smallest: int = 0
    max_input_bytes: int = 0
    max_target_bytes: int = 0
    first: lines.Row = ()
    num_lost: int = 0
    has_one_target: bool = True
    skipped: SkippedLines = dataclasses.field(default_factory=SkippedLines)

    def add(self, row: lines.Row) -> None:
        """Adds an example."""
        self.max_input_bytes = max(self.max_input_bytes, len(row[0].encode("utf-8")))
        self.max_target_bytes = max(self.max_target_bytes, len(row[-1].encode("utf-8")))
        key = digest(row[0])
        self.first = self.first or row
        self.num_lost += any("\ufffd" in text for text in row)
        self.has_one_target = self.has_one_target and row[-1] == self.first[-1]
        self.num_examples += 1
        self.num_held_out += key % _HOLD_OUT_ONE_IN == 0
        if self.smallest is None or key < self.smallest:
            self.smallest, self.num_smallest = key, 0
        self.num_smallest += key == self.smallest

    def warnings(self, path: str) -> list[str]:
        """Returns a sentence for what is likely a mistake in the file at `path`."""
        found = []
        if len(self.first) == 2 and tuple(map(str.lower, self.first)) in _HEADERS:
            found.append(
                f"{path}, line 1: {self.first[0]!r} and {self.first[1]!r} look like names of "
                "columns, but are used as an example; remove the line"
            )
        if self.num_lost:
            found.append(
                f"{path}: {self.num_lost} examples have the character U+FFFD, which stands for "
                "text that was lost in a conversion; convert the file anew"
            )
        if len(self.first) == 2 and self.has_one_target and self.num_examples > 1:
            found.append(f"{path}: all {self.num_examples} examples have the same target")
        return found


def scan(path: str, data_format: str, skip_bad_lines: bool) -> FileScan:
    """Reads a file and checks each of its lines.

    Raises:
      ValueError: the file cannot be read or has no examples.
      BadLineError: a line is bad, and bad lines are not skipped.
    """
    check_file(path)
    status = os.stat(path)
    identity = (os.path.realpath(path), status.st_ino, status.st_size, status.st_mtime_ns)
    return _scan(path, data_format, skip_bad_lines, identity)


# A command checks its files before TensorFlow is loaded, and needs what was found again after.
@functools.lru_cache(maxsize=8)
def _scan(path: str, data_format: str, skip_bad_lines: bool, identity: object) -> FileScan:
    """Scans a file that is this one as long as its identity is."""
    del identity
    found = FileScan()
    for row in lines.reader(data_format)(path, found.skipped if skip_bad_lines else None):
        found.add(row)
    if not found.num_examples:
        skipped = found.skipped
        bad = f" ({skipped.num_bad} bad lines skipped, the first: {skipped[0]})" if skipped else ""
        raise ValueError(f"{path} holds no examples{bad}")
    return found


class HeldOut(NamedTuple):
    """The part of a file that is held out for validation.

    Attributes:
      num_examples: number of examples.
      contains: returns whether an input belongs to it.
    """

    num_examples: int
    contains: Callable[[str], bool]


def hold_out(path: str, found: FileScan) -> HeldOut:
    """Chooses the part of a file to hold out.

    Raises:
      ValueError: all examples of the file have the same input.
    """
    if 0 < found.num_held_out < found.num_examples:
        return HeldOut(found.num_held_out, lambda inputs: digest(inputs) % _HOLD_OUT_ONE_IN == 0)
    # So few examples that the digest chose none of them, or all.
    if found.num_smallest == found.num_examples:
        raise ValueError(
            f"{path} has only one input, so none can be held out for validation; add more lines, "
            "or give validation_data"
        )
    return HeldOut(found.num_smallest, lambda inputs: digest(inputs) == found.smallest)
