"""Baselines that a model has to beat: predictions that need no learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hmoe.t5.data.scores import ExampleFields, field_of


def copy_baseline(examples: Iterable[ExampleFields]) -> list[str]:
    """Predicts the input: what follows its first ": ", or all of it if there is none."""
    predictions = []
    for example in examples:
        before, colon, after = field_of(example, "inputs").partition(": ")
        predictions.append(after if colon else before)
    return predictions


def most_frequent_baseline(
    training: Iterable[ExampleFields],
    examples: Iterable[ExampleFields],
    labels: Sequence[str] = ("language", "kind"),
) -> list[str]:
    """Predicts the most frequent target among the training examples that have the same labels.

    Of equally frequent targets it takes the first in code-point order, so that the order of the
    training examples does not matter.

    Args:
      training: examples to count targets in. All of them are read, so their number must be bounded.
      examples: examples to predict.
      labels: labels that must agree; none for the most frequent target of all.

    Returns:
      A prediction for each example. Where no training example has its labels, it is the most
      frequent target of all.

    Raises:
      ValueError: there are no training examples, or an example lacks a label.
    """
    overall: Counter[str] = Counter()
    groups: dict[tuple[str, ...], Counter[str]] = {}
    for example in training:
        target = field_of(example, "targets")
        overall[target] += 1
        key = tuple(field_of(example, label) for label in labels)
        groups.setdefault(key, Counter())[target] += 1
    if not overall:
        raise ValueError("most_frequent_baseline needs at least one training example")
    best = {key: _most_frequent(counts) for key, counts in groups.items()}
    default = _most_frequent(overall)
    return [
        best.get(tuple(field_of(example, label) for label in labels), default)
        for example in examples
    ]


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda target: (-counts[target], target))
