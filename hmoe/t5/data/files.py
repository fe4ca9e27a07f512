"""A user's own data, with no code: a file of pairs or of running text becomes a SeqIO task.

    name = files.register("pairs.tsv")          # the mixture_or_task_name of T5's dataset functions
    print(files.report(name).summary())

The files are read once from end to end before anything is built, so that a bad line is found before
a graph is; they are read again, line by line, in training. Neither holds a file in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator

import seqio
import t5.data.preprocessors
from absl import logging

from hmoe.startup.path_checks import check_file
from hmoe.t5.data import lines, scores, tasks, vocabularies
from hmoe.t5.data.examples import digest

# One example in twenty is held out where there is no validation file.
_HELD_OUT_PARTS = 20
# Files may be sorted, so the buffer is large; but never larger than the file, which would be read
# again and again to fill it.
_MAX_SHUFFLE_BUFFER = 10_000
_SHOWN_SKIPPED = 3

# A file, and which of its inputs belong to the split; all if None.
_Source = tuple[str, Callable[[str], bool] | None]

_reports: dict[str, Report] = {}


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in a user's files.

    Attributes:
      data: path of the training data.
      validation_data: path of the validation data; None if it is held out of `data`.
      data_format: "pairs" or "text".
      num_training: examples for training: pairs, or blocks of text.
      num_validation: examples for validation.
      skipped: messages about the first bad lines that were skipped.
      num_skipped: bad lines skipped in both files.
      max_input_bytes: longest input in UTF-8 bytes; of text, the longest block.
      max_target_bytes: longest target in UTF-8 bytes; of text, the longest block.
    """

    data: str
    validation_data: str | None
    data_format: str
    num_training: int
    num_validation: int
    skipped: tuple[str, ...]
    num_skipped: int
    max_input_bytes: int
    max_target_bytes: int

    def summary(self) -> str:
        """Returns what a user should know, in one line and one more for each skipped line shown."""
        what = "pairs" if self.data_format == "pairs" else "blocks of text"
        source = (
            f"from {self.validation_data}"
            if self.validation_data
            else "held out of it by a hash of the input, for want of validation data"
        )
        text = (
            f"{self.data}: {self.num_training} {what} for training, {self.num_validation} for "
            f"validation ({source})"
        )
        if self.data_format == "pairs":
            text += (
                f"; longest input {self.max_input_bytes} bytes, longest target "
                f"{self.max_target_bytes} bytes"
            )
        if self.num_skipped:
            text += f"; {self.num_skipped} bad lines skipped, such as"
            text += "".join(f"\n  {message}" for message in self.skipped)
        return text


@dataclasses.dataclass
class _Scan:
    """What one pass over a file finds."""

    count: int = 0
    count_held_out: int = 0
    count_smallest: int = 0
    smallest: int | None = None
    max_bytes: tuple[int, int] = (0, 0)
    skipped: list[str] = dataclasses.field(default_factory=list)
    num_skipped: int = 0

    def add(self, row: lines.Row) -> None:
        sizes = (len(row[0].encode("utf-8")), len(row[-1].encode("utf-8")))
        self.max_bytes = (max(self.max_bytes[0], sizes[0]), max(self.max_bytes[1], sizes[1]))
        key = digest(row[0])
        self.count += 1
        self.count_held_out += key % _HELD_OUT_PARTS == 0
        if self.smallest is None or key < self.smallest:
            self.smallest, self.count_smallest = key, 0
        self.count_smallest += key == self.smallest


class _Skipping(list[str]):
    """Counts bad lines and keeps the first few, so that memory does not grow with them."""

    seen = 0

    def append(self, message: str) -> None:
        self.seen += 1
        if len(self) < _SHOWN_SKIPPED:
            super().append(message)


def _scan(path: str, data_format: str, skip_bad_lines: bool) -> _Scan:
    check_file(path)
    skipped = _Skipping()
    scan = _Scan()
    for row in lines.reader(data_format)(path, skipped if skip_bad_lines else None):
        scan.add(row)
    scan.skipped, scan.num_skipped = list(skipped), skipped.seen
    if not scan.count:
        bad = f" ({skipped.seen} bad lines skipped, the first: {skipped[0]})" if skipped else ""
        raise ValueError(f"{path} holds no examples{bad}")
    return scan


def _held_out(path: str, scan: _Scan) -> tuple[int, Callable[[str], bool]]:
    """Returns how many examples are held out, and which: a function of the input."""
    if 0 < scan.count_held_out < scan.count:
        return scan.count_held_out, lambda inputs: digest(inputs) % _HELD_OUT_PARTS == 0
    # So few examples that the hash chose none of them, or all: one input is held out.
    if scan.count_smallest == scan.count:
        raise ValueError(
            f"{path} has only one input, so none can be held out for validation; add more lines, "
            "or give validation_data"
        )
    return scan.count_smallest, lambda inputs: digest(inputs) == scan.smallest


def _splits(
    data: str, validation_data: str | None, data_format: str, skip_bad_lines: bool
) -> tuple[list[_Scan], dict[str, _Source], int]:
    """Checks the files; returns their scans, where each split is, and the size of validation."""
    if validation_data is None:
        scan = _scan(data, data_format, skip_bad_lines)
        num_validation, held_out = _held_out(data, scan)
        sources: dict[str, _Source] = {
            "train": (data, lambda inputs: not held_out(inputs)),
            "validation": (data, held_out),
        }
        return [scan], sources, num_validation
    if os.path.abspath(validation_data) == os.path.abspath(data):
        raise ValueError(
            f"validation_data is the data itself ({data}); leave it out, and a part is held out"
        )
    scans = [_scan(path, data_format, skip_bad_lines) for path in (data, validation_data)]
    return scans, {"train": (data, None), "validation": (validation_data, None)}, scans[1].count


def _task_name(data: str, options: tuple[object, ...]) -> str:
    """Returns a name that is the same for the same file and options, in every process."""
    stem = re.sub(r"\W+", "_", os.path.basename(data).split(".")[0])
    identity = repr((os.path.abspath(data), *options)).encode("utf-8")
    return f"data_{stem}_{hashlib.blake2b(identity, digest_size=4).hexdigest()}"


def _add_task(
    name: str,
    data_format: str,
    vocabulary: seqio.Vocabulary,
    rows_fn: tasks.RowsFn,
    num_training: int,
) -> None:
    """Registers the task, in place of one of the same name."""
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    pairs = data_format == "pairs"
    tokenize = functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=pairs)
    tasks.add_task(
        name,
        rows_fn,
        ("inputs", "targets") if pairs else ("targets",),
        ("train", "validation"),
        tasks.features(vocabulary, ("inputs", "targets")),
        [tokenize, seqio.preprocessors.append_eos]
        if pairs
        else [
            tokenize,
            t5.data.preprocessors.span_corruption,
            seqio.preprocessors.append_eos_after_trim,
        ],
        # What stood in the gaps of a text has many right answers: its measure is cross entropy.
        [scores.exact_match, scores.character_f_score] if pairs else [],
        shuffle_buffer=min(num_training, _MAX_SHUFFLE_BUFFER),
    )


def _rows_fn(
    sources: dict[str, _Source],
    data_format: str,
    skip_bad_lines: bool,
) -> tasks.RowsFn:
    """Returns the rows of each split: those of its file of which the split's condition holds."""

    def read(split: str) -> Iterator[lines.Row]:
        path, keep = sources[split]
        for row in lines.reader(data_format)(path, _Skipping() if skip_bad_lines else None):
            if keep is None or keep(row[0]):
                yield row

    return lambda split: functools.partial(read, split)


def register(
    data: str,
    validation_data: str | None = None,
    vocabulary: str | None = None,
    skip_bad_lines: bool = False,
    data_format: str | None = None,
) -> str:
    """Checks a user's files and registers a task with splits "train" and "validation".

    Pairs are learned as they are; running text by span corruption (15 % of the tokens in spans of 3
    on average, as T5 was), which needs targets of about a quarter of the inputs' length.

    Args:
      data: path of a file of pairs (`.tsv`: input, tab, target) or of running text (`.txt`), also
        gzipped (`.gz`).
      validation_data: path of such a file to evaluate on; if None, one example in twenty of `data`
        is held out by a hash of its input, and the log says so.
      vocabulary: path of a SentencePiece model; bytes if None.
      skip_bad_lines: whether to skip bad lines and count them (`report(name).num_skipped`) instead
        of raising.
      data_format: "pairs" or "text", where the extension does not tell.

    Returns:
      The task's name, for T5's `mixture_or_task_name`.

    Raises:
      ValueError: if a file is missing, unreadable, empty or a directory, holds a bad line, or is
        not of a known format. The text names the file, the line, what was found and what was
        expected.
    """
    data_format = lines.format_of(data, data_format)
    loaded = vocabularies.load(vocabulary)
    scans, sources, num_validation = _splits(data, validation_data, data_format, skip_bad_lines)
    name = _task_name(data, (validation_data, vocabulary, skip_bad_lines, data_format))
    num_training = scans[0].count - (0 if validation_data else num_validation)
    rows_fn = _rows_fn(sources, data_format, skip_bad_lines)
    _add_task(name, data_format, loaded, rows_fn, num_training)
    _reports[name] = Report(
        data=data,
        validation_data=validation_data,
        data_format=data_format,
        num_training=num_training,
        num_validation=num_validation,
        skipped=tuple(message for scan in scans for message in scan.skipped)[:_SHOWN_SKIPPED],
        num_skipped=sum(scan.num_skipped for scan in scans),
        max_input_bytes=max(scan.max_bytes[0] for scan in scans),
        max_target_bytes=max(scan.max_bytes[1] for scan in scans),
    )
    logging.info("%s", _reports[name].summary())
    return name


def report(name: str) -> Report:
    """Returns what `register` found.

    Raises:
      ValueError: if no file was registered under the name.
    """
    if name not in _reports:
        raise ValueError(f"{name!r} is not a task that files.register returned")
    return _reports[name]
