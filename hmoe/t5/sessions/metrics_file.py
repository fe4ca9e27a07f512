"""Writes metrics for users: lines of `metrics.jsonl`, and TensorBoard scalars."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping

from hmoe.compat.stack import tf
from hmoe.t5.sessions import run_metrics

METRICS_FILE = "metrics.jsonl"


def keep_lines(path: str, wanted: Callable[[int], bool]) -> None:
    """Removes the lines of all steps but the wanted ones from a file of metrics, if it exists."""
    if not tf.io.gfile.exists(path):
        return
    with tf.io.gfile.GFile(path) as file:
        lines = [line for line in file.read().splitlines() if line]
    kept = [line for line in lines if wanted(json.loads(line)[run_metrics.STEP.name])]
    if len(kept) < len(lines):
        with tf.io.gfile.GFile(path, "w") as file:
            file.write("".join(f"{line}\n" for line in kept))


def append_line(path: str, step: int, numbers: Mapping[str, float]) -> None:
    """Appends a line of JSON with the step, the time in seconds since 1970, and the metrics."""
    values = {name: float(value) for name, value in numbers.items()}
    now = round(time.time(), 3)
    line = json.dumps({run_metrics.STEP.name: step, run_metrics.TIME.name: now, **values})
    with tf.io.gfile.GFile(path, "a") as file:
        file.write(line + "\n")


def scalar_summary(numbers: Mapping[str, float]) -> tf.Summary:
    """Returns the metrics as TensorBoard scalars."""
    values = [tf.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
    return tf.Summary(value=values)


def write_evaluation(folder: str, step: int, numbers: Mapping[str, float]) -> None:
    """Writes the metrics of one checkpoint to a folder, for TensorBoard and to `metrics.jsonl`.

    A checkpoint that is evaluated again replaces its line.
    """
    writer = tf.summary.FileWriter(folder)
    writer.add_summary(scalar_summary(numbers), step)
    writer.close()
    path = os.path.join(folder, METRICS_FILE)
    keep_lines(path, lambda known: known != step)
    append_line(path, step, numbers)
