"""Turns a user's own file, of pairs or of running text, into a SeqIO task, without any code.

    name = files.register("pairs.tsv")          # the mixture_or_task_name of T5's dataset functions
    print(files.report(name).summary())

Each file is read once from end to end before anything is built, so that a bad line is found before
a graph is, and read again line by line in training. Neither keeps a file in memory.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import seqio
import t5.data.preprocessors
from absl import logging

from hmoe.startup.data_files import check as data_check
from hmoe.startup.data_files import lines
from hmoe.startup.data_files import scan as file_scan
from hmoe.startup.data_files.scan import FileScan, SkippedLines
from hmoe.t5.data import scores, tasks, vocabularies
from hmoe.t5.data.cut_counts import CutCount
from hmoe.t5.data.file_report import Report
from hmoe.t5.data.row_source import RowReader
from hmoe.t5.data.shards import WHOLE, Shard

# Files may be sorted, so the shuffle buffer is large; but never larger than the file, which would
# be read again and again to fill it.
_MAX_SHUFFLE_BUFFER = 10_000
# Blocks of text that stay together in a shard: T5 joins this many before it cuts sequences.
_MAX_TEXT_RUN = 128

# The features of all tasks of files.
FEATURES = ("inputs", "targets")
# The split of `register_examples`.
EXAMPLES = "examples"

_reports: dict[str, Report] = {}


class _Split(NamedTuple):
    """A split of the data: a file, and which of its inputs belong to the split.

    Attributes:
      path: the file.
      contains: returns whether an input belongs to the split; None if all do.
    """

    path: str
    contains: Callable[[str], bool] | None = None


class _Data(NamedTuple):
    """The checked files.

    Attributes:
      scans: one for each file, the training file first.
      splits: "train" and "validation".
      num_validation: number of validation examples.
    """

    scans: list[FileScan]
    splits: dict[str, _Split]
    num_validation: int

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of "train" or "validation"."""
        if split == "validation":
            return self.num_validation
        held_out = self.num_validation if len(self.scans) == 1 else 0
        return self.scans[0].num_examples - held_out


def _check_data(
    data: str, validation_data: str | None, data_format: str, skip_bad_lines: bool
) -> _Data:
    """Reads the files, and divides the data into training and validation."""
    if validation_data is None:
        found = file_scan.scan(data, data_format, skip_bad_lines)
        held_out = file_scan.hold_out(data, found)
        splits = {
            "train": _Split(data, lambda inputs: not held_out.contains(inputs)),
            "validation": _Split(data, held_out.contains),
        }
        return _Data([found], splits, held_out.num_examples)
    data_check.check_apart(data, validation_data)
    scans = [file_scan.scan(path, data_format, skip_bad_lines) for path in (data, validation_data)]
    splits = {"train": _Split(data), "validation": _Split(validation_data)}
    return _Data(scans, splits, scans[1].num_examples)


def _task_name(
    data: str,
    validation_data: str | None,
    vocabulary: str | None,
    skip_bad_lines: bool,
    data_format: str,
) -> str:
    """Returns a name that is the same for the same files and options, in every process.

    A vocabulary counts by its contents, since a trained model has a copy of its own.
    """
    stem = re.sub(r"\W+", "_", os.path.basename(data).split(".")[0])
    validation_data = validation_data and os.path.abspath(validation_data)
    if vocabulary:
        with open(vocabulary, "rb") as file:
            vocabulary = hashlib.blake2b(file.read()).hexdigest()
    options = (validation_data, vocabulary, skip_bad_lines, data_format)
    identity = repr((os.path.abspath(data), *options)).encode("utf-8")
    return f"data_{stem}_{hashlib.blake2b(identity, digest_size=4).hexdigest()}"


def _add_task(
    name: str,
    data_format: str,
    features: dict[str, seqio.Feature],
    read: RowReader,
    num_training: int,
    splits: Sequence[str] = ("train", "validation"),
) -> None:
    """Registers the task, in place of one of the same name."""
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    pairs = data_format == "pairs"
    tokenize = functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=pairs)
    corrupt = [t5.data.preprocessors.span_corruption, seqio.preprocessors.append_eos_after_trim]
    tasks.add_task(
        name,
        read,
        ("inputs", "targets") if pairs else ("targets",),
        splits,
        features,
        [tokenize, *([seqio.preprocessors.append_eos] if pairs else corrupt)],
        # The gaps in a text can be filled rightly in many ways, so cross entropy measures those.
        [scores.exact_match, scores.character_f_score] if pairs else [],
        shuffle_buffer=min(num_training, _MAX_SHUFFLE_BUFFER),
    )


def _row_reader(checked: Callable[[], _Data], data_format: str, skip_bad_lines: bool) -> RowReader:
    """Returns what reads the rows of a split, or those of one of its shards."""

    def rows(split: str) -> Iterator[lines.Row]:
        path, contains = checked().splits[split]
        for row in lines.reader(data_format)(path, SkippedLines() if skip_bad_lines else None):
            if contains is None or contains(row[0]):
                yield row

    def read(split: str, shard: Shard) -> Iterator[lines.Row]:
        run = 1
        if data_format == "text" and shard != WHOLE:
            run = max(1, min(_MAX_TEXT_RUN, checked().num_examples(split) // shard.count))
        return shard.of_rows(rows(split), run)

    return lambda split, shard: functools.partial(read, split, shard)


def register(
    data: str,
    validation_data: str | None = None,
    vocabulary: str | None = None,
    skip_bad_lines: bool = False,
    data_format: str | None = None,
    read_now: bool = True,
) -> str:
    """Checks a user's files and registers a task with splits "train" and "validation".

    Pairs are learned as they are. Running text is learned by span corruption (15 % of the tokens in
    spans of 3 on average, as T5 was), which needs targets of about a quarter of the inputs' length.

    Args:
      data: path of a file of pairs (`.tsv`: input, tab, target) or of running text (`.txt`), also
        gzipped (`.gz`).
      validation_data: path of such a file to evaluate on. If None, one example in twenty of `data`
        is held out by a hash of its input, as the log shows.
      vocabulary: path of a SentencePiece model; bytes if None.
      skip_bad_lines: whether to skip bad lines and count them (`report(name).num_skipped`) instead
        of raising.
      data_format: "pairs" or "text", for a file with another extension.
      read_now: whether to check the files now, and report on them. A trained model answers without
        its data, which may be on another machine: then they are read when examples are asked for.

    Returns:
      The task's name, for T5's `mixture_or_task_name`.

    Raises:
      ValueError: a file is missing, unreadable, empty or a directory, contains a bad line, or has
        an unknown format. The message names the file, the line, what was found and what was
        expected.
    """
    data_format = lines.format_of(data, data_format)
    loaded = vocabularies.load(vocabulary)
    name = _task_name(data, validation_data, vocabulary, skip_bad_lines, data_format)
    checked = functools.cache(
        functools.partial(_check_data, data, validation_data, data_format, skip_bad_lines)
    )
    num_training = _MAX_SHUFFLE_BUFFER
    if read_now:
        _reports[name] = _report(data, validation_data, data_format, checked())
        num_training = _reports[name].num_training
        logging.info("%s", _reports[name].summary())
    read = _row_reader(checked, data_format, skip_bad_lines)
    features = tasks.features(loaded, FEATURES)
    _add_task(name, data_format, features, read, num_training)
    return name


def register_examples(
    data: str,
    vocabularies: Mapping[str, seqio.Vocabulary],
    skip_bad_lines: bool = False,
    data_format: str | None = None,
) -> str:
    """Checks a user's file and registers a task whose split `EXAMPLES` is all of it, in its order.

    For a model that is trained already, on whatever data. Running text is read as `register` says.

    Args:
      data: path of the file; see `register`.
      vocabularies: the model's vocabulary for each of `FEATURES`.
      skip_bad_lines: see `register`.
      data_format: see `register`.

    Returns:
      The task's name.

    Raises:
      ValueError: see `register`.
    """
    data_format = lines.format_of(data, data_format)
    found = file_scan.scan(data, data_format, skip_bad_lines)
    whole = _Data([found], {EXAMPLES: _Split(data)}, num_validation=0)
    name = _task_name(data, None, None, skip_bad_lines, f"{data_format}, {EXAMPLES}")
    features = {
        feature: seqio.Feature(vocabulary, add_eos=True)
        for feature, vocabulary in vocabularies.items()
    }
    read = _row_reader(lambda: whole, data_format, skip_bad_lines)
    _add_task(name, data_format, features, read, found.num_examples, (EXAMPLES,))
    return name


def _report(data: str, validation_data: str | None, data_format: str, checked: _Data) -> Report:
    scans, num_validation = checked.scans, checked.num_validation
    return Report(
        data=data,
        validation_data=validation_data,
        data_format=data_format,
        num_training=checked.num_examples("train"),
        num_validation=num_validation,
        skipped=tuple(m for scan in scans for m in scan.skipped)[: file_scan.NUM_SHOWN],
        num_skipped=sum(scan.skipped.num_bad for scan in scans),
        max_input_bytes=max(scan.max_input_bytes for scan in scans),
        max_target_bytes=max(scan.max_target_bytes for scan in scans),
    )


def report(name: str) -> Report:
    """Returns the contents of the files of a registered task.

    Raises:
      ValueError: `register` returned no such name.
    """
    if name not in _reports:
        raise ValueError(f"{name!r} is not a task that files.register returned")
    return _reports[name]


def is_registered(name: str) -> bool:
    """Returns whether a task is of a user's files that have been read."""
    return name in _reports


def count_cut(name: str, lengths: Mapping[str, int]) -> list[CutCount]:
    """Counts the training examples that are longer than the model reads.

    Args:
      name: the name of a registered task.
      lengths: tokens that the model reads, end mark included, by feature.

    Returns:
      The counts of inputs and targets; none for running text, whose spans fill the lengths.
    """
    found = report(name)
    longest = {"inputs": found.max_input_bytes, "targets": found.max_target_bytes}
    if found.data_format != "pairs" or all(longest[f] + 2 <= lengths[f] for f in longest):
        return []
    vocabulary = seqio.get_mixture_or_task(name).output_features["inputs"].vocabulary
    counts = [CutCount(f"training {feature}", feature, lengths[feature]) for feature in longest]
    for row in tasks.rows(name, "train"):
        for each in counts:
            each.add(_num_tokens(row[each.feature], vocabulary, each.limit))
    return counts


def _num_tokens(text: str, vocabulary: seqio.Vocabulary, limit: int) -> int:
    """Returns the number of tokens of a text with its end mark, or a number within the limit.

    No text has more tokens than bytes, but for a mark at its start, so few texts need encoding.
    """
    most = len(text.encode("utf-8")) + 2
    return most if most <= limit else len(vocabulary.encode(text)) + 1
