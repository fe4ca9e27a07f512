"""Which process made a run fail, what the user is told of it, and the exit status."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Sequence

from hmoe.launcher.children import Child
from hmoe.startup.exit_statuses import BAD_INPUT, FAILED, LOST, READER_GONE

# Statuses of a process that a signal made end in good order.
STOPPED = tuple(128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How a run ended.

    Attributes:
      status: the exit status.
      lines: what the user is told.
    """

    status: int
    lines: tuple[str, ...] = ()

    @property
    def may_restart(self) -> bool:
        """Whether it failed, such that another start may succeed."""
        return self.status not in (0, BAD_INPUT, READER_GONE, *STOPPED)


def of(
    children: Sequence[Child], log_of: Callable[[int], str], *, told_to_stop: bool = False
) -> Verdict:
    """Returns how a run ended, all of whose processes have ended.

    Args:
      children: the processes.
      log_of: returns a phrase about the log of the process of a number.
      told_to_stop: whether the launcher told all of them to save and stop.
    """
    # A process that was told to stop before it handled signals was killed by that one.
    fine = (0, *STOPPED, -signal.SIGTERM) if told_to_stop else (0,)
    failed = [child for child in children if child.status not in fine]
    if not failed:
        return Verdict(max(_exit_status(child) for child in children))
    by_themselves = [child for child in failed if not child.told]
    causes = [child for child in by_themselves if child.status != LOST]
    cause = min(causes or by_themselves or failed, key=_order)
    if all(child.status == FAILED for child in causes):
        # They may have found the same error, such as a loss of NaN; the first shows it.
        cause = min(causes, key=lambda child: child.number, default=cause)
    lines = _lines_printed(failed, cause)
    silent = [child for child in failed if child.told]
    silent = [child for child in silent if signal.SIGKILL in child.told] or silent
    if causes or not silent:
        lines += _cause(cause, log_of(cause.number))
    else:
        lines += [_silent(child, log_of(child.number)) for child in silent]
        return Verdict(LOST, tuple(lines))
    return Verdict(_exit_status(cause), tuple(lines))


def _order(child: Child) -> tuple[bool, float, bool, int]:
    """Sorts by time, and of those that ended together a killed one first.

    What several find alike comes from the one that has shown its message.
    """
    has_shown = child.number == 0 and child.status in (BAD_INPUT, LOST)
    return not has_shown, child.ended_at or 0.0, (child.status or 0) > 0, child.number


def _exit_status(child: Child) -> int:
    status = child.status or 0
    return status if status >= 0 else 128 - status


def _lines_printed(failed: Sequence[Child], cause: Child) -> list[str]:
    """Returns what processes printed; what several printed alike, once.

    What process 0 printed is not known, as it has printed to the user. If it failed too, and all
    others say the same, then that was it.
    """
    texts: dict[str, list[str]] = {}
    for child in failed:
        lines = _printed(child, cause)
        if lines:
            texts.setdefault(child.printed(), lines)
    if len(texts) == 1 and cause.number == 0 and cause.status == FAILED:
        return []
    return [line for lines in texts.values() for line in lines]


def _printed(child: Child, cause: Child) -> list[str]:
    """Returns the lines that a process printed, unless another says the same."""
    repeats = child.status == LOST or child.status == cause.status == BAD_INPUT
    if (repeats and child is not cause) or child.told or child.status in STOPPED:
        return []
    return [f"process {child.number}: {line}" for line in child.printed().splitlines()]


def _cause(child: Child, log: str) -> list[str]:
    status = child.status or 0
    if status in (BAD_INPUT, READER_GONE):  # what it printed is all that the user needs
        return []
    if status < 0:
        name = signal.Signals(-status).name
        how = f"was killed by {name}"
        if name == "SIGKILL":
            how += ", by hand or because memory ran out"
    elif status in STOPPED:
        how = f"was stopped by {signal.Signals(status - 128).name}"
    elif status == LOST:
        how = "lost another process of the run"
    else:
        how = f"failed (exit status {status})"
    return [f"hmoe launch: process {child.number} {how}; {log}"]


def _silent(child: Child, log: str) -> str:
    return (
        f"hmoe launch: process {child.number} was lost by the others and did not end by itself, so "
        f"it was ended; {log}"
    )
