"""What a training run left in its folder, as far as a report shows it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from hmoe.startup import gin_statements, path_checks, saved_run
from hmoe.startup.command_line import command
from hmoe.startup.gin_reading import Reading
from hmoe.startup.saved_run import CONFIGURATIONS, FLAGS_FILE, METRICS_FILE
from hmoe.storage import checkpoint_files
from hmoe.storage.local_files import is_elsewhere

_GIN_FILE = CONFIGURATIONS[1]
_MIXTURE = "t5.models.mesh_transformer.mesh_train_dataset_fn.mixture_or_task_name"
_MIXTURE_MACRO = "MIXTURE_NAME"


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
      folder: its folder, as the user named it.
      lines: the metrics of each report by name, with "step", in the order of steps.
      gin: the configuration that training used; "" if it is not there.
      data: flags of training that name data, by name; of a run without such flags the name of its
        task or mixture, as "data".
      checkpoints: the steps that have a checkpoint, in order.
      versions: the versions that trained it; see `hmoe.startup.saved_run.VERSIONS`.
    """

    folder: str
    lines: tuple[Mapping[str, float], ...]
    gin: str
    data: Mapping[str, str]
    checkpoints: tuple[int, ...]
    versions: tuple[Mapping[str, Any], ...] = ()

    @property
    def last_step(self) -> int:
        """The training step of the last report."""
        return int(self.lines[-1]["step"])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all metrics, in the order in which they first appear."""
        return tuple(dict.fromkeys(name for line in self.lines for name in line))


def read(folder: str) -> Run:
    """Reads a run; lines of metrics that are damaged are left out.

    Raises:
      ValueError: the folder does not exist, is on another machine, or has no metrics.
      OSError: a file cannot be read.
    """
    if is_elsewhere(folder):
        raise ValueError(
            f"model_dir {folder!r} is on another machine; copy {METRICS_FILE}, {_GIN_FILE} and the"
            " traces to a folder here, and name that"
        )
    if not os.path.isdir(folder):
        path_checks.raise_no_checkpoint(folder, folder_exists=False)
    lines = sorted(_lines(folder), key=lambda line: line["step"])
    if not lines:
        raise ValueError(
            f"model_dir {folder!r} has no whole line in {METRICS_FILE} yet; train until the first"
            " is written"
        )
    gin = _text(os.path.join(folder, _GIN_FILE))
    steps = tuple(sorted(checkpoint_files.saved_steps(folder)))
    versions = tuple(saved_run.versions(folder))
    return Run(folder, tuple(lines), gin, _data(folder) or _mixture(gin), steps, versions)


def _lines(folder: str) -> Iterator[dict[str, float]]:
    """Yields the numbers of each whole line by name."""
    path = os.path.join(folder, METRICS_FILE)
    if not os.path.isfile(path):
        raise ValueError(
            f"model_dir {folder!r} has no {METRICS_FILE}, from which a report takes its curves;"
            f" train first ({command('train', model_dir=folder)}), or name the folder of another"
            " run"
        )
    for line in _text(path).split("\n"):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict) and type(fields.get("step")) is int:
            yield {name: each for name, each in fields.items() if _is_number(each)}


def _is_number(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _text(path: str) -> str:
    """Returns the text of a file, whatever bytes are in it; "" if there is none."""
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        return file.read().decode("utf-8", errors="replace")


def _data(folder: str) -> dict[str, str]:
    """Returns the flags of training that name data."""
    try:
        flags = json.loads(_text(os.path.join(folder, FLAGS_FILE)))
    except (ValueError, RecursionError):
        return {}
    names = ("data", "validation_data", "vocabulary", "data_format")
    found = flags if isinstance(flags, dict) else {}
    return {name: str(found[name]) for name in names if found.get(name)}


def _mixture(gin: str) -> dict[str, str]:
    """Returns the name of the task or mixture that a configuration names, as "data"."""
    try:
        reading = Reading(list(gin_statements.parse(gin, _GIN_FILE)))
        macro = reading.macros.get(_MIXTURE_MACRO)
        found = reading.literal(_MIXTURE, macro and reading.resolve(macro).value)
    except ValueError:  # it was edited since, and is no gin any more
        return {}
    return {"data": found} if isinstance(found, str) else {}
