"""Keeps the sums of the steps since the last report beside a checkpoint.

A line of `metrics.jsonl` covers all steps since the last one. With these sums a run that was
interrupted between two lines goes on to the same lines as one that was not.
"""

from __future__ import annotations

import json
import os
import re

import numpy as np
from etils import epath

from hmoe.startup import atomic_write
from hmoe.t5.graphs.sums import SumKey
from hmoe.t5.sessions.run_metrics import SumCollector

_NAME = re.compile(r"model\.ckpt-(\d+)\.progress\.json")


def path_of(model_dir: str, step: int) -> str:
    """Returns the path of the sums that belong to the checkpoint of a step."""
    return os.path.join(model_dir, f"model.ckpt-{step}.progress.json")


def write(model_dir: str, step: int, collector: SumCollector) -> None:
    """Writes the sums that belong to the checkpoint of a step, which is to be saved next.

    Sums whose checkpoints are gone are removed. Floats are written such that reading gives the same
    bits.

    Raises:
      OSError: the file cannot be written.
    """
    _remove_orphans(model_dir)
    values = [[*key, np.asarray(value).tolist()] for key, value in collector.sums.items()]
    text = json.dumps({"steps": collector.count, "sums": values})
    atomic_write.write_text(path_of(model_dir, step), text + "\n")


def read(model_dir: str, step: int) -> SumCollector | None:
    """Reads the sums that belong to the checkpoint of a step; None if they are lost."""
    try:
        text = epath.Path(path_of(model_dir, step)).read_text(encoding="utf-8")
        found = json.loads(text)
        collector = SumCollector()
        collector.count = int(found["steps"])
        for layer, name, value in found["sums"]:
            collector.sums[SumKey(layer, name)] = np.asarray(value, np.float64)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return collector


def _remove_orphans(model_dir: str) -> None:
    names = {path.name for path in epath.Path(model_dir).iterdir()}
    for name in names:
        match = _NAME.fullmatch(name)
        if match and f"model.ckpt-{match[1]}.index" not in names:
            (epath.Path(model_dir) / name).unlink(missing_ok=True)
