"""Registers tasks with SeqIO: `cldr_formats`, `cldr_names`, and their mixture `cldr`.

Texts are bytes to the model, so no vocabulary file is needed. The labels `language` and `kind` stay
beside `inputs` and `targets` up to T5's evaluation; T5's training drops them.

Gin selects the examples of the tasks, without code:

    hmoe.FormatSettings.languages = ["de", "fr", "ja"]
    hmoe.NameSettings.kinds = ["territory", "city"]

`register_formats` and `register_names` register further tasks, each with settings of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import gin
import seqio

from hmoe.t5.data import cldr, scores
from hmoe.t5.data.examples import Example, LengthLimits
from hmoe.t5.data.row_source import RowReader, RowSource
from hmoe.t5.data.shards import WHOLE, Shard
from hmoe.t5.data.vocabularies import BYTES

# The generators mix their examples themselves, so a small buffer is enough, and it fills fast.
_SHUFFLE_BUFFER = 1_000


class _TaskRows(NamedTuple):
    """The rows of a registered task.

    Attributes:
      read: reads the rows.
      fields: the name of each string of a row.
    """

    read: RowReader
    fields: tuple[str, ...]


_rows_by_task: dict[str, _TaskRows] = {}
# The settings of generated tasks, which limit the length of their examples.
_limits_by_task: dict[str, Callable[[], LengthLimits]] = {}

# Gin's wrappers of the classes: gin files may change their defaults until a dataset is made.
_format_settings = gin.external_configurable(cldr.FormatSettings, module="hmoe")
_name_settings = gin.external_configurable(cldr.NameSettings, module="hmoe")


def features(vocabulary: seqio.Vocabulary, names: Sequence[str]) -> dict[str, seqio.Feature]:
    """Returns output features that end with an end-of-sequence token."""
    return {name: seqio.Feature(vocabulary, add_eos=True) for name in names}


def keep_text(text: str, **unused: object) -> str:
    """Passes text to the metrics as it is, since white space counts."""
    return text


def add_task(
    name: str,
    read: RowReader,
    fields: tuple[str, ...],
    splits: Sequence[str],
    output_features: dict[str, seqio.Feature],
    preprocessors: Sequence[Callable],
    metric_fns: Sequence[Callable],
    shuffle_buffer: int = _SHUFFLE_BUFFER,
) -> None:
    """Registers a task whose rows come from Python.

    Args:
      name: the task's name.
      read: reads the rows.
      fields: the name of each string of a row.
      splits: the names of the splits.
      output_features: the features that the model sees, by field.
      preprocessors: SeqIO preprocessors.
      metric_fns: functions of (targets, predictions).
      shuffle_buffer: number of examples that SeqIO mixes in training; each takes memory, and time
        at the start.
    """
    seqio.TaskRegistry.add(
        name,
        source=RowSource(read, fields, splits),
        preprocessors=list(preprocessors),
        output_features=output_features,
        postprocess_fn=keep_text,
        metric_fns=list(metric_fns),
        shuffle_buffer_size=shuffle_buffer,
    )
    _rows_by_task[name] = _TaskRows(read, fields)


def rows(mixture_or_task: str, split: str) -> Iterator[dict[str, str]]:
    """Yields the examples of a task or mixture as strings, without TensorFlow.

    The tasks of a mixture take turns for as long as they have examples. Meant for baselines and
    tables, which take as many as they need.

    Raises:
      ValueError: this package registered no such task.
    """
    names = [task.name for task in seqio.get_subtasks(seqio.get_mixture_or_task(mixture_or_task))]
    for name in names:
        if name not in _rows_by_task:
            raise ValueError(
                f"hmoe did not register {name!r} and cannot read its examples; its own tasks are "
                f"{', '.join(_rows_by_task)}"
            )
    remaining = [
        (iter(_rows_by_task[name].read(split, WHOLE)()), _rows_by_task[name].fields)
        for name in names
    ]
    while remaining:
        for task in list(remaining):
            iterator, fields = task
            row = next(iterator, None)
            if row is None:
                remaining.remove(task)
            else:
                yield dict(zip(fields, row))


def fits(name: str, lengths: Mapping[str, int]) -> bool:
    """Returns whether the settings of a task keep its examples within lengths in tokens.

    Args:
      name: the task's name; only those that generate their examples, of bytes, have settings.
      lengths: tokens that the model reads, end mark included, by feature.
    """
    if name not in _limits_by_task:
        return False
    limits = _limits_by_task[name]()
    longest = {"inputs": limits.max_input_bytes, "targets": limits.max_target_bytes}
    return all(longest[feature] < length for feature, length in lengths.items())


def _add_cldr(
    name: str,
    generate: Callable[..., Iterator[Example]],
    settings: cldr.FormatSettings | cldr.NameSettings | None,
    settings_from_gin: Callable[[], cldr.FormatSettings | cldr.NameSettings],
) -> None:
    """Registers a task from a generator of examples; settings of gin are read when it is used."""

    def read(split: str, shard: Shard) -> Callable[[], Iterator[Example]]:
        return functools.partial(generate, split, settings or settings_from_gin(), shard)

    _limits_by_task[name] = lambda: settings or settings_from_gin()
    add_task(
        name,
        read,
        Example._fields,
        cldr.SPLITS,
        features(BYTES, ("inputs", "targets")),
        [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        [scores.exact_match, scores.character_f_score],
    )


def register_formats(name: str, settings: cldr.FormatSettings | None = None) -> None:
    """Registers a task that generates its examples with `cldr.format_examples`.

    Args:
      name: the task's name.
      settings: settings of the generator; those of gin's `hmoe.FormatSettings` if None.
    """
    _add_cldr(name, cldr.format_examples, settings, _format_settings)


def register_names(name: str, settings: cldr.NameSettings | None = None) -> None:
    """Registers a task that generates its examples with `cldr.name_examples`.

    Args:
      name: the task's name.
      settings: settings of the generator; those of gin's `hmoe.NameSettings` if None.
    """
    _add_cldr(name, cldr.name_examples, settings, _name_settings)


register_formats("cldr_formats")
register_names("cldr_names")
seqio.MixtureRegistry.add("cldr", ["cldr_formats", "cldr_names"], default_rate=1.0)
