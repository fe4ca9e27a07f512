"""Keeps the sums of the steps since the last report beside a checkpoint, and the loads' history.

A line of `metrics.jsonl` covers all steps since the last one. With these sums a run that was
interrupted between two lines goes on to the same lines as one that was not.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
from etils import epath

from hmoe.storage import atomic_write
from hmoe.t5.graphs.sums import SumKey
from hmoe.t5.sessions.load_history import LoadHistory
from hmoe.t5.sessions.run_metrics import SumCollector

# End of the name of the file, after the checkpoint's.
ENDING = ".progress.json"


class SavedSums(NamedTuple):
    """What belongs to a checkpoint.

    Attributes:
      collector: the sums of the steps since the last report.
      history: the loads.
    """

    collector: SumCollector
    history: LoadHistory


def write(path: str, saved: SavedSums) -> None:
    """Writes the sums that belong to a checkpoint; reading them gives the same bits.

    Args:
      path: the checkpoint's path prefix.
      saved: the sums.

    Raises:
      OSError: the file cannot be written.
    """
    collector = saved.collector
    values = [[*key, np.asarray(value).tolist()] for key, value in collector.sums.items()]
    text = json.dumps({"steps": collector.count, "sums": values, "loads": saved.history.state()})
    atomic_write.write_text(f"{path}{ENDING}", text + "\n")


def read(path: str) -> SavedSums | None:
    """Reads the sums that belong to a checkpoint; None if they are lost."""
    collector = SumCollector()
    try:
        found = json.loads(epath.Path(f"{path}{ENDING}").read_text(encoding="utf-8"))
        collector.count = int(found["steps"])
        for layer, name, value in found["sums"]:
            collector.sums[SumKey(layer, name)] = np.asarray(value, np.float64)
        loads = found.get("loads")  # which earlier versions did not keep
        return SavedSums(collector, LoadHistory.of_state(loads) if loads else LoadHistory())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
