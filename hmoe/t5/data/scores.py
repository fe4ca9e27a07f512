"""Scores of predictions from 0 to 100: exact match and a character F-score, in all or by label."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import sacrebleu

from hmoe.t5.data.examples import Example

# An example as a generator yields it, or as T5's evaluation has it.
ExampleFields = Example | Mapping[str, object]


def field_of(example: ExampleFields, field: str) -> str:
    """Returns a text or label of an example.

    Args:
      example: an `Example`, or an example of T5's evaluation, whose strings are bytes and whose
        `inputs` are ids beside the text in `inputs_pretokenized`.
      field: "inputs", "targets" or a label such as "kind".

    Raises:
      ValueError: the example has no such field.
    """
    fields = example._asdict() if isinstance(example, Example) else example
    value = fields.get(f"{field}_pretokenized", fields.get(field))
    if value is None:
        raise ValueError(f"the example has no {field!r}; it has {', '.join(sorted(fields))}")
    if hasattr(value, "item"):  # a scalar of numpy
        value = value.item()
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


@functools.cache
def _character_scorer() -> sacrebleu.CHRF:
    return sacrebleu.CHRF()


def _check_lengths(targets: Sequence[str], predictions: Sequence[str]) -> None:
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    if not targets:
        raise ValueError("no targets to score")


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns {"exact_match": percentage of predictions that equal their target}.

    Raises:
      ValueError: there are no targets, or another number of predictions.
    """
    _check_lengths(targets, predictions)
    right = sum(target == prediction for target, prediction in zip(targets, predictions))
    return {"exact_match": 100.0 * right / len(targets)}


def character_f_score(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns {"chrf": sacrebleu's chrF2 over all predictions together, from 0 to 100}.

    The score ignores white space, so a missing space lowers only the exact match.

    Raises:
      ValueError: there are no targets, or another number of predictions.
    """
    _check_lengths(targets, predictions)
    score = _character_scorer().corpus_score(list(predictions), [list(targets)])
    return {"chrf": score.score}


def scores(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns {"count", "exact_match", "chrf"} of all predictions."""
    return {
        "count": float(len(targets)),
        **exact_match(targets, predictions),
        **character_f_score(targets, predictions),
    }


def scores_by_label(
    examples: Sequence[ExampleFields],
    targets: Sequence[str],
    predictions: Sequence[str],
    label: str,
) -> dict[str, dict[str, float]]:
    """Returns `scores` for each value of a label.

    Args:
      examples: the examples, with their labels.
      targets: the target of each example.
      predictions: a model's or a baseline's prediction for each example.
      label: "language" or "kind".

    Returns:
      {value of the label: {"count", "exact_match", "chrf"}}, sorted by value.

    Raises:
      ValueError: the three differ in length, or an example lacks the label.
    """
    _check_lengths(targets, predictions)
    if len(examples) != len(targets):
        raise ValueError(f"{len(examples)} examples but {len(targets)} targets")
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(field_of(example, label), []).append(index)
    return {
        value: scores([targets[i] for i in groups[value]], [predictions[i] for i in groups[value]])
        for value in sorted(groups)
    }
