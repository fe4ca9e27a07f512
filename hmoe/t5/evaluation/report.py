"""Prints the results of an evaluation, and what a training run leaves behind."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from hmoe.startup import command_line
from hmoe.startup.console import table
from hmoe.t5.data import baselines
from hmoe.t5.data import scores as score_lib
from hmoe.t5.data import tasks as task_data
from hmoe.t5.evaluation.label_scores import LABELS, all_have, scores_by_labels
from hmoe.t5.evaluation.results import EvalExample, Evaluation
from hmoe.t5.sessions import metrics_file, run_metrics

# Prints a line for the user.
Say = Callable[[str], None]

# Number of predictions that are shown.
NUM_SHOWN = 10
# Maximum number of rows in a table by label.
MAX_GROUPS = 24
# Number of training examples in which the most frequent targets are counted.
NUM_COUNTED = 20_000


def print_evaluation(
    say: Say, evaluations: Sequence[Evaluation], numbers: Mapping[str, float]
) -> None:
    """Prints the results of one checkpoint.

    Args:
      say: prints a line for the user.
      evaluations: one for each task.
      numbers: metrics of all tasks together, by teacher forcing.
    """
    for evaluation in evaluations:
        if evaluation.task.is_decoded:
            print_task(say, evaluation)
        else:
            print_task_without_scores(say, evaluation)
    say("")
    if len(evaluations) > 1:
        for evaluation in evaluations:
            say(teacher_forcing(evaluation.task.dataset.name, evaluation.numbers))
    say(teacher_forcing("all tasks", numbers))
    print_expert_load(say, numbers)


def teacher_forcing(name: str, numbers: Mapping[str, float]) -> str:
    """Returns a line with the numbers of a task, or of all, by teacher forcing."""
    cross_entropy = numbers[run_metrics.CROSS_ENT_LOSS.name]
    loss = numbers[run_metrics.LOSS.name]
    accuracy = numbers[run_metrics.TOKEN_ACCURACY.name]
    return (
        f"Teacher forcing, {name}: {run_metrics.CROSS_ENT_LOSS.name} {cross_entropy:.4f} nats "
        f"per token ({run_metrics.LOSS.name} {loss:.4f}, divided by all positions), "
        f"{100 * accuracy:.1f} % of tokens right"
    )


def print_task_without_scores(say: Say, evaluation: Evaluation) -> None:
    """Prints the number of examples of a task, and why no output of it is decoded."""
    task = evaluation.task
    reason = "no inputs to decode from" if task.dataset.metric_fns else "no metrics of its own"
    say("")
    say(
        f"{task.dataset.name}, step {evaluation.step}: {task.num_examples} held-out examples; the "
        f"task has {reason}, so it is evaluated by teacher forcing alone"
    )


def print_task(say: Say, evaluation: Evaluation) -> None:
    """Prints a task's scores beside those of the baselines, scores by label, and predictions."""
    name, examples = evaluation.task.dataset.name, evaluation.task.examples
    say("")
    say(f"{name}, step {evaluation.step}: {len(examples)} held-out examples")
    rows = [score_row("the model", evaluation.scores)]
    for baseline, baseline_predictions in _baselines(name, examples).items():
        scores: dict[str, float] = {}
        for metric in evaluation.task.dataset.metric_fns:
            scores.update(metric(evaluation.task.targets, baseline_predictions))
        rows.append(score_row(baseline, scores))
    _print_table(say, ["", *evaluation.scores], rows)
    for label, by_label in scores_by_labels(evaluation).items():
        print_scores_by_label(say, label, by_label)
    print_predictions(say, evaluation)


def print_scores_by_label(say: Say, label: str, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a table of scores by the values of a label; with many values, the most frequent."""
    most_frequent = sorted(scores, key=lambda value: -scores[value]["count"])[:MAX_GROUPS]
    rows = [score_row(value, scores[value]) for value in sorted(most_frequent)]
    _print_table(say, [label, *scores[most_frequent[0]]], rows)
    if len(scores) > len(most_frequent):
        say(f"  and {len(scores) - len(most_frequent)} more, with no more examples each")


def score_row(name: str, scores: Mapping[str, float]) -> list[str]:
    """Returns a row of a table: a name, then the scores with one decimal and counts with none."""
    cells = [f"{v:,.0f}" if key == "count" else f"{v:.1f}" for key, v in scores.items()]
    return [name, *cells]


def print_predictions(say: Say, evaluation: Evaluation) -> None:
    """Prints predictions beside their references, spread evenly over the examples."""
    examples = evaluation.task.examples
    stride = max(1, len(examples) // NUM_SHOWN)
    say("")
    say(f"{min(NUM_SHOWN, len(examples))} predictions beside their references (= marks a match)")
    for index in list(range(0, len(examples), stride))[:NUM_SHOWN]:
        target, prediction = evaluation.task.targets[index], evaluation.predictions[index]
        say(f"  {one_line(score_lib.field_of(examples[index], 'inputs'))}")
        say(f"    {'=' if prediction == target else ' '} {one_line(prediction)}")
        if prediction != target:
            say(f"      {one_line(target)}  (reference)")


def one_line(text: object) -> str:
    """Replaces control characters, which an untrained model may output, so that one line stays."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def print_expert_load(say: Say, numbers: Mapping[str, float]) -> None:
    """Prints a table of the load on the experts by layer and level; nothing for a dense model."""
    pattern = re.compile(r"(.+/layer_\d+)/(.+)/load_imbalance$")
    rows = []
    for name in sorted(numbers):
        match = pattern.match(name)
        if match:
            layer, level = match.groups()
            dropped = numbers[f"{layer}/{level}/fraction_arrivals_dropped"]
            rows.append([layer, level, f"{numbers[name]:.2f}", f"{100 * dropped:.1f} %"])
    if rows:
        header = ["layer", "level", "imbalance (max / mean)", "arrivals dropped"]
        _print_table(say, header, rows)


def print_run_files(say: Say, model_dir: str, checkpoint: str, log_path: str) -> None:
    """Prints where a run's files are, and which command decodes with its model."""
    say("")
    say(f"Checkpoint   {checkpoint}")
    say(f"Curves       {os.path.join(model_dir, metrics_file.METRICS_FILE)}")
    say(f"TensorBoard  {_tensorboard(model_dir)}")
    say(f"Log          {log_path}")
    say(f"Predict      {command_line.command('predict', model_dir=model_dir)}")


def _tensorboard(model_dir: str) -> str:
    """Returns the command that shows the curves, after that which installs it where it is not."""
    program = command_line.beside_program("tensorboard")
    start = f"{program or 'tensorboard'} --logdir={shlex.quote(model_dir)}"
    return start if program else f"pip install tensorboard, then: {start}"


def _print_table(say: Say, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    say("")
    for line in table(header, rows):
        say(f"  {line}")


def _baselines(name: str, examples: Sequence[EvalExample]) -> dict[str, list[str]]:
    """Returns the predictions of each baseline; one needs training examples, of hmoe's tasks."""
    if not all_have(examples, "inputs_pretokenized"):
        return {}
    predictions = {"copying the input": baselines.copy_baseline(examples)}
    try:
        rows = list(itertools.islice(task_data.rows(name, "train"), NUM_COUNTED))
    except ValueError:
        return predictions
    labels = [label for label in LABELS if all_have(examples, label) and all_have(rows, label)]
    if rows:
        predictions["the most frequent target"] = baselines.most_frequent_baseline(
            rows, examples, labels
        )
    return predictions
