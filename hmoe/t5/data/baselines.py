"""What a model has to beat: answers that take no learning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hmoe.t5.data.scores import AnyExample, field_of


def copy_baseline(examples: Iterable[AnyExample]) -> list[str]:
    """Answers with the input: what follows its first ": ", or all of it if there is none."""
    answers = []
    for example in examples:
        inputs = field_of(example, "inputs")
        before, colon, after = inputs.partition(": ")
        answers.append(after if colon else before)
    return answers


def most_frequent_baseline(
    training: Iterable[AnyExample],
    examples: Iterable[AnyExample],
    labels: Sequence[str] = ("language", "kind"),
) -> list[str]:
    """Answers with the most frequent training answer among examples of the same labels.

    Of answers equally frequent, the one first in code-point order is given, so that the order of
    training does not matter.

    Args:
      training: examples to count answers in; bounded, since all of them are read.
      examples: examples to answer.
      labels: labels that must agree; none for the most frequent answer of all.

    Returns:
      An answer for each example. For labels that training never showed, the most frequent of all.

    Raises:
      ValueError: if there are no training examples, or an example lacks a label.
    """
    overall: Counter = Counter()
    groups: dict[tuple[str, ...], Counter] = {}
    for example in training:
        answer = field_of(example, "targets")
        overall[answer] += 1
        key = tuple(field_of(example, label) for label in labels)
        groups.setdefault(key, Counter())[answer] += 1
    if not overall:
        raise ValueError("most_frequent_baseline needs at least one training example")
    best = {key: _most_frequent(counts) for key, counts in groups.items()}
    default = _most_frequent(overall)
    return [
        best.get(tuple(field_of(example, label) for label in labels), default)
        for example in examples
    ]


def _most_frequent(counts: Counter) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))
