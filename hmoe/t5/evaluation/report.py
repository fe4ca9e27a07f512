"""What is said of an evaluation and at the end of a training run."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hmoe.startup.console import table
from hmoe.t5.data import baselines
from hmoe.t5.data import scores as score_lib
from hmoe.t5.data import tasks as task_data
from hmoe.t5.evaluation.results import Evaluation

Say = Callable[[str], None]

LABELS = ("language", "kind")
NUM_SHOWN = 10
# Rows of a table by label.
MAX_GROUPS = 24
# Training examples that the most frequent answers are counted in.
NUM_COUNTED = 20_000


def say_evaluation(
    say: Say, evaluations: Sequence[Evaluation], numbers: Mapping[str, float]
) -> None:
    """Says all there is to say of one checkpoint's evaluation.

    Args:
      say: takes lines for the user.
      evaluations: of each task, by answers.
      numbers: of all tasks together, by teacher forcing.
    """
    for evaluation in evaluations:
        say_task(say, evaluation)
    say("")
    say(
        f"Teacher-forced, all tasks: cross_ent_loss {numbers['cross_ent_loss']:.4f} nats a token "
        f"(loss, by all positions, {numbers['loss']:.4f}), "
        f"{100 * numbers['token_accuracy']:.1f} % of tokens right"
    )
    say_experts(say, numbers)


def say_task(say: Say, evaluation: Evaluation) -> None:
    """Says how a task went: scores, beside what takes no learning, by label, and some answers."""
    name, examples = evaluation.task.dataset.name, evaluation.task.examples
    say("")
    say(f"{name}, step {evaluation.step}: {len(examples)} held-out examples")
    rows = [score_row("the model", evaluation.scores)]
    for baseline, answers in _baselines(name, examples).items():
        scores: dict[str, float] = {}
        for metric in evaluation.task.dataset.metric_fns:
            scores.update(metric(evaluation.task.targets, answers))
        rows.append(score_row(baseline, scores))
    _say_table(say, ["", *evaluation.scores], rows)
    for label in LABELS:
        if _has(examples, label):
            by = score_lib.scores_by_label(
                examples, evaluation.task.targets, evaluation.predictions, label
            )
            say_groups(say, label, by)
    say_answers(say, evaluation)


def say_groups(say: Say, label: str, scores: Mapping[str, Mapping[str, float]]) -> None:
    """A table of scores by a label, of the largest groups if there are many."""
    largest = sorted(scores, key=lambda value: -scores[value]["count"])[:MAX_GROUPS]
    rows = [score_row(value, scores[value]) for value in sorted(largest)]
    _say_table(say, [label, *scores[largest[0]]], rows)
    if len(scores) > len(largest):
        say(f"  and {len(scores) - len(largest)} more, each with no more examples")


def score_row(name: str, scores: Mapping[str, float]) -> list[str]:
    """A row of a table: a name, then each score with one decimal, counts with none."""
    cells = [f"{v:,.0f}" if key == "count" else f"{v:.1f}" for key, v in scores.items()]
    return [name, *cells]


def say_answers(say: Say, evaluation: Evaluation) -> None:
    """Shows answers beside their references, spread evenly over the examples."""
    examples = evaluation.task.examples
    stride = max(1, len(examples) // NUM_SHOWN)
    say("")
    say(f"{min(NUM_SHOWN, len(examples))} answers beside their references (= is right)")
    for index in list(range(0, len(examples), stride))[:NUM_SHOWN]:
        target, answer = evaluation.task.targets[index], evaluation.predictions[index]
        say(f"  {one_line(score_lib.field_of(examples[index], 'inputs'))}")
        say(f"    {'=' if answer == target else ' '} {one_line(answer)}")
        if answer != target:
            say(f"      {one_line(target)}  (reference)")


def one_line(answer: Any) -> str:
    """An answer as one line, whatever control characters an untrained model puts in."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(answer))


def say_experts(say: Say, numbers: Mapping[str, float]) -> None:
    """A table of the load on the experts of each layer and level; nothing for a dense model."""
    pattern = re.compile(r"(.+/layer_\d+)/(.+)/load_imbalance$")
    rows = []
    for name in sorted(numbers):
        match = pattern.match(name)
        if match:
            layer, level = match.groups()
            left = numbers[f"{layer}/{level}/fraction_tokens_left_behind"]
            rows.append([layer, level, f"{numbers[name]:.2f}", f"{100 * left:.1f} %"])
    if rows:
        header = ["experts of", "level", "imbalance (max / mean)", "tokens left behind"]
        _say_table(say, header, rows)


def say_files(say: Say, model_dir: str, checkpoint: str, log_path: str) -> None:
    """Says where everything is, and what to do next."""
    say("")
    say(f"Checkpoint   {checkpoint}")
    say(f"Curves       {os.path.join(model_dir, 'metrics.jsonl')}")
    say(f"TensorBoard  tensorboard --logdir {model_dir}")
    say(f"Log          {log_path}")
    say(f"Answer       hmoe predict --model_dir={model_dir}")


def _say_table(say: Say, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    say("")
    for line in table(header, rows):
        say(f"  {line}")


def _has(examples: Sequence[Mapping[str, Any]], label: str) -> bool:
    return all(label in example for example in examples)


def _baselines(name: str, examples: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Answers without learning; those that need training examples only for our own tasks."""
    if not all("inputs_pretokenized" in example for example in examples):
        return {}
    answers = {"copying the input": baselines.copy_baseline(examples)}
    try:
        rows = list(itertools.islice(task_data.rows(name, "train"), NUM_COUNTED))
    except ValueError:
        return answers
    labels = [label for label in LABELS if _has(examples, label) and _has(rows, label)]
    if rows:
        answers["the most frequent answer"] = baselines.most_frequent_baseline(
            rows, examples, labels
        )
    return answers
