"""Registers tasks with SeqIO: `cldr_formats`, `cldr_names`, and their mixture `cldr`.

Texts are bytes to the model, so no vocabulary file is needed. The labels `language` and `kind` stay
beside `inputs` and `targets` up to T5's evaluation; T5's training drops them.

What the tasks draw is set by gin, without code:

    hmoe.FormatSettings.languages = ["de", "fr", "ja"]
    hmoe.NameSettings.kinds = ["territory", "city"]

or, as a task beside these, by `register_formats` and `register_names`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import gin
import seqio

from hmoe.compat.stack import tf
from hmoe.t5.data import cldr, scores
from hmoe.t5.data.examples import Example
from hmoe.t5.data.vocabularies import BYTES

# Elements of a generator cross into TensorFlow in blocks: one at a time costs ten times as much.
_BLOCK = 256
# The generators mix their examples themselves, so a small buffer does, and fills fast.
_SHUFFLE_BUFFER = 1_000

# Given a split, looks up its settings, and returns what yields its rows, afresh at each call. A row
# has one string a field.
RowsFn = Callable[[str], Callable[[], Iterable[Sequence[str]]]]

_rows_fns: dict[str, tuple[RowsFn, tuple[str, ...]]] = {}

# Gin's own wrappers, whose defaults a gin file may change until a dataset is made.
_format_settings = gin.external_configurable(cldr.FormatSettings, module="hmoe")
_name_settings = gin.external_configurable(cldr.NameSettings, module="hmoe")


def features(vocabulary: seqio.Vocabulary, names: Sequence[str]) -> dict[str, seqio.Feature]:
    """Returns output features that end with an end-of-sequence token."""
    return {name: seqio.Feature(vocabulary, add_eos=True) for name in names}


def _dataset(
    split: str,
    shuffle_files: bool,
    seed: int | None = None,
    *,
    rows_fn: RowsFn,
    fields: tuple[str, ...],
) -> tf.data.Dataset:
    """Returns a dataset of {field: string} from a generator, read as it is consumed."""
    del shuffle_files, seed  # the generators' order is fixed; SeqIO shuffles after
    read = rows_fn(split)

    def blocks() -> Iterator[dict[str, list[str]]]:
        rows: list[Sequence[str]] = []
        for row in read():
            rows.append(row)
            if len(rows) == _BLOCK:
                yield dict(zip(fields, map(list, zip(*rows))))
                rows = []
        if rows:
            yield dict(zip(fields, map(list, zip(*rows))))

    dataset = tf.data.Dataset.from_generator(
        blocks,
        output_signature={field: tf.TensorSpec([None], tf.string) for field in fields},
    )
    return dataset.unbatch()


def keep_text(answer: str, **unused: object) -> str:
    """Gives an answer to the metrics as it is: white space counts."""
    return answer


def add_task(
    name: str,
    rows_fn: RowsFn,
    fields: tuple[str, ...],
    splits: Sequence[str],
    output_features: dict[str, seqio.Feature],
    preprocessors: Sequence[Callable],
    metric_fns: Sequence[Callable],
    shuffle_buffer: int = _SHUFFLE_BUFFER,
) -> None:
    """Registers a task whose examples a Python generator yields.

    Args:
      name: the task's name.
      rows_fn: given a split, returns what yields its rows, afresh each time it is called.
      fields: the name of each string of a row.
      splits: the splits that there are.
      output_features: what the model sees, by field.
      preprocessors: SeqIO preprocessors.
      metric_fns: functions of (targets, predictions).
      shuffle_buffer: how many examples SeqIO mixes in training; each costs memory and start-up.
    """
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            functools.partial(_dataset, rows_fn=rows_fn, fields=fields), splits=splits
        ),
        preprocessors=list(preprocessors),
        output_features=output_features,
        postprocess_fn=keep_text,
        metric_fns=list(metric_fns),
        shuffle_buffer_size=shuffle_buffer,
    )
    _rows_fns[name] = (rows_fn, fields)


def rows(mixture_or_task: str, split: str) -> Iterator[dict[str, str]]:
    """Yields the examples of a task or mixture as strings, without TensorFlow.

    Those of a mixture take turns, as long as each task has any. Meant for baselines and tables;
    take as many as are needed.

    Raises:
      ValueError: if the name is not one that this package registered.
    """
    names = [task.name for task in seqio.get_subtasks(seqio.get_mixture_or_task(mixture_or_task))]
    for name in names:
        if name not in _rows_fns:
            raise ValueError(
                f"the examples of {name!r} are not known to hmoe; there are {', '.join(_rows_fns)}"
            )
    sources = []
    for name in names:
        rows_fn, fields = _rows_fns[name]
        sources.append((iter(rows_fn(split)()), fields))
    while sources:
        for source in list(sources):
            row = next(source[0], None)
            if row is None:
                sources.remove(source)
            else:
                yield dict(zip(source[1], row))


def _add_cldr(
    name: str,
    examples_of: Callable[..., Iterator[Example]],
    settings: object,
    gins_settings: Callable[[], object],
) -> None:
    """Registers a task of a generator of examples; gin's settings are read when it is used."""

    def rows_fn(split: str) -> Callable[[], Iterator[Example]]:
        return functools.partial(examples_of, split, settings or gins_settings())

    add_task(
        name,
        rows_fn,
        Example._fields,
        cldr.SPLITS,
        features(BYTES, ("inputs", "targets")),
        [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        [scores.exact_match, scores.character_f_score],
    )


def register_formats(name: str, settings: cldr.FormatSettings | None = None) -> None:
    """Registers a task of `cldr.format_examples`.

    Args:
      name: the task's name.
      settings: what it draws; gin's `hmoe.FormatSettings` if None.
    """
    _add_cldr(name, cldr.format_examples, settings, _format_settings)


def register_names(name: str, settings: cldr.NameSettings | None = None) -> None:
    """Registers a task of `cldr.name_examples`.

    Args:
      name: the task's name.
      settings: what it takes; gin's `hmoe.NameSettings` if None.
    """
    _add_cldr(name, cldr.name_examples, settings, _name_settings)


register_formats("cldr_formats")
register_names("cldr_names")
seqio.MixtureRegistry.add("cldr", ["cldr_formats", "cldr_names"], default_rate=1.0)
