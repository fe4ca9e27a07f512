"""Writes metrics for users: lines of `metrics.jsonl`, and TensorBoard scalars."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from hmoe.compat.stack import tf
from hmoe.startup.saved_run import METRICS_FILE
from hmoe.storage import atomic_write, disk_full
from hmoe.t5.sessions import run_metrics

# Number of damaged lines whose numbers are said.
MAX_LISTED = 5


def keep_lines(
    path: str,
    wanted: Callable[[int], bool],
    say: Callable[[str], None] = tf.logging.info,
) -> None:
    """Removes the lines of all steps but the wanted ones from a file of metrics, if it exists.

    Lines that are damaged, such as the last one of a process that was killed, are removed as well.

    Args:
      path: the file, which is replaced as a whole or stays as it is.
      wanted: returns whether the lines of a step are kept.
      say: prints a line for the user, if lines were damaged.

    Raises:
      OSError: the file cannot be read or written.
    """
    if not tf.io.gfile.exists(path):
        return
    lines = _lines(path)
    steps = [_step_of(line) for line in lines]
    kept = [line for line, step in zip(lines, steps) if step is not None and wanted(step)]
    damaged = [str(number) for number, step in enumerate(steps, 1) if step is None]
    if damaged:
        many = ", ..." if len(damaged) > MAX_LISTED else ""
        say(
            f"{path}: removed {len(damaged)} damaged of {len(lines)} lines (line "
            f"{', '.join(damaged[:MAX_LISTED])}{many})"
        )
    if len(kept) < len(lines) or not _ends_well(path):
        atomic_write.write_text(path, "".join(f"{line}\n" for line in kept))


def read_lines(path: str) -> list[dict[str, Any]]:
    """Returns the fields of all lines of a file that are not damaged; none if there is no file."""
    if not tf.io.gfile.exists(path):
        return []
    return [json.loads(line) for line in _lines(path) if _step_of(line) is not None]


def _lines(path: str) -> list[str]:
    """Returns the lines of a file that are not empty, whatever bytes are in it."""
    text = epath.Path(path).read_bytes().decode("utf-8", errors="replace")
    return [line for line in text.split("\n") if line.strip()]


def _step_of(line: str) -> int | None:
    """Returns the step of a line of metrics, or None if the line is damaged."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = fields.get(run_metrics.STEP.name) if isinstance(fields, dict) else None
    return step if type(step) is int and "\ufffd" not in line else None


def _ends_well(path: str) -> bool:
    """Returns whether a file is empty, does not exist, or ends with the end of a line."""
    file = epath.Path(path)
    if not file.exists():
        return True
    size = file.stat().length
    if not size:
        return True
    with file.open("rb") as stream:
        stream.seek(size - 1)
        return stream.read(1) == b"\n"


def append_line(path: str, step: int, numbers: Mapping[str, float]) -> None:
    """Appends a line of JSON with the step, the time in seconds since 1970, and the metrics."""
    values = {name: float(value) for name, value in numbers.items()}
    now = round(time.time(), 3)
    append_text(
        path, json.dumps({run_metrics.STEP.name: step, run_metrics.TIME.name: now, **values})
    )


def append_text(path: str, line: str) -> None:
    """Appends a line; one that a process could not finish stays a line of its own."""
    start = "" if _ends_well(path) else "\n"
    with disk_full.naming(path), epath.Path(path).open("a") as file:
        file.write(f"{start}{line}\n")


def scalar_summary(numbers: Mapping[str, float]) -> tf.Summary:
    """Returns the metrics as TensorBoard scalars."""
    values = [tf.Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
    return tf.Summary(value=values)


def write_evaluation(
    folder: str,
    step: int,
    numbers: Mapping[str, float],
    say: Callable[[str], None] = tf.logging.info,
) -> None:
    """Writes the metrics of one checkpoint to a folder, for TensorBoard and to `metrics.jsonl`.

    A checkpoint that is evaluated again replaces its line.
    """
    writer = tf.summary.FileWriter(folder)
    writer.add_summary(scalar_summary(numbers), step)
    writer.close()
    path = os.path.join(folder, METRICS_FILE)
    keep_lines(path, lambda known: known != step, say)
    append_line(path, step, numbers)
