"""Scores of answers: exact match and a character F-score, whole or by label, from 0 to 100."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import sacrebleu

from hmoe.t5.data.examples import Example

# An example as a generator yields it, or as T5's evaluation holds it.
AnyExample = Example | Mapping[str, Any]


def field_of(example: AnyExample, field: str) -> str:
    """Returns a text or label of an example.

    Args:
      example: an `Example`, or an example of T5's evaluation, whose strings are bytes and whose
        `inputs` are numbers beside `inputs_pretokenized`.
      field: "inputs", "targets" or a label such as "kind".

    Raises:
      ValueError: if the example has no such field.
    """
    fields = example._asdict() if isinstance(example, Example) else example
    value = fields.get(f"{field}_pretokenized", fields.get(field))
    if value is None:
        raise ValueError(f"the example has no {field!r}; it has {', '.join(sorted(fields))}")
    if hasattr(value, "item"):  # numpy's scalar
        value = value.item()
    return value.decode("utf-8") if isinstance(value, bytes) else value


@functools.cache
def _chrf() -> sacrebleu.CHRF:
    return sacrebleu.CHRF()


def _check_lengths(targets: Sequence[str], predictions: Sequence[str]) -> None:
    if len(targets) != len(predictions):
        raise ValueError(f"{len(targets)} targets but {len(predictions)} predictions")
    if not targets:
        raise ValueError("no targets to score")


def exact_match(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns {"exact_match": percentage of predictions that are the target to the character}.

    Raises:
      ValueError: if there are no targets, or not as many predictions.
    """
    _check_lengths(targets, predictions)
    right = sum(target == prediction for target, prediction in zip(targets, predictions))
    return {"exact_match": 100.0 * right / len(targets)}


def character_f_score(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns {"chrf": sacrebleu's chrF2 over all answers together, from 0 to 100}.

    It sees no white space, so a missing space costs exact match alone.

    Raises:
      ValueError: if there are no targets, or not as many predictions.
    """
    _check_lengths(targets, predictions)
    return {"chrf": _chrf().corpus_score(list(predictions), [list(targets)]).score}


def scores(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns {"count", "exact_match", "chrf"} of all answers."""
    return {
        "count": float(len(targets)),
        **exact_match(targets, predictions),
        **character_f_score(targets, predictions),
    }


def scores_by(
    examples: Sequence[AnyExample],
    targets: Sequence[str],
    predictions: Sequence[str],
    label: str,
) -> dict[str, dict[str, float]]:
    """Returns `scores` for each value of a label.

    Args:
      examples: what was asked, with its labels, in the order of the answers.
      targets: the right answers.
      predictions: the model's, or a baseline's.
      label: "language" or "kind".

    Returns:
      {value of the label: {"count", "exact_match", "chrf"}}, sorted by value.

    Raises:
      ValueError: if the three differ in length, or an example lacks the label.
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
