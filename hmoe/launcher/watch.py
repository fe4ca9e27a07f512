"""Waits for the processes of a run, and ends all when one fails or the launcher is told to stop."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Sequence

from hmoe.launcher import verdict
from hmoe.launcher.children import Child

# Seconds between two looks at the processes.
_BETWEEN_LOOKS = 0.05


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long processes may take to end, in seconds.

    Attributes:
      notice: after one failed, for the others to notice that by themselves.
      end: after SIGTERM, until they are killed.
    """

    notice: float = 10.0
    end: float = 5.0


def wait(children: Sequence[Child], stop_asked: Callable[[], bool], patience: Patience) -> None:
    """Waits until all processes have ended.

    When one fails, the others have time to notice it; then those that are left get SIGTERM, and
    SIGKILL in the end, which also ends a stopped process. When the launcher is to stop, all get
    SIGTERM, and as much time as they need to save.

    Args:
      children: the processes.
      stop_asked: returns whether the launcher was told to stop.
      patience: how long processes may take to end.
    """
    is_stopping = False
    while _running(children):
        if stop_asked() and not is_stopping:
            is_stopping = True
            for child in _running(children):
                child.send(signal.SIGTERM)
        _end_late(children, patience)
        time.sleep(_BETWEEN_LOOKS)


def _running(children: Sequence[Child]) -> list[Child]:
    for child in children:
        child.look()
    return [child for child in children if child.runs]


def _end_late(children: Sequence[Child], patience: Patience) -> None:
    """Sends signals to processes that still run some time after another one failed."""
    # One that a signal stopped in good order has done no harm; others may still save.
    fine = (0, *verdict.STOPPED)
    failures = [
        each.ended_at for each in children if each.ended_at is not None and each.status not in fine
    ]
    if not failures:
        return
    since = time.monotonic() - min(failures)
    for child in _running(children):
        if since > patience.notice and signal.SIGTERM not in child.told:
            _tell(child, signal.SIGTERM)
        if since > patience.notice + patience.end and signal.SIGKILL not in child.told:
            _tell(child, signal.SIGKILL)


def _tell(child: Child, number: signal.Signals) -> None:
    child.told.append(number)
    child.send(number)
