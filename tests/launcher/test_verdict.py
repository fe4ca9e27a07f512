"""Which process was the cause, by hand-written statuses."""

from __future__ import annotations

import io
import signal
from typing import Any

import pytest

from hmoe.launcher import verdict
from hmoe.launcher.children import Child
from hmoe.startup import exit_statuses


class Ended:
    """Stands in for the `Popen` of a process that ended."""

    def __init__(self, status: int):
        self.returncode = status


def child(number: int, status: int, at: float, told: str = "", printed: str = "") -> Child:
    process: Any = Ended(status)
    signals = [signal.Signals[name] for name in told.split()]
    return Child(number, process, io.BytesIO(printed.encode()), at, signals)


def judged(*children: Child, told_to_stop: bool = False) -> tuple[int, list[str]]:
    found = verdict.of(children, "log {}".format, told_to_stop=told_to_stop)
    return found.status, list(found.lines)


LOST = exit_statuses.LOST
LOST_LINE = "hmoe launch: process 0 lost another process of the run; log 0"


def test_success() -> None:
    assert judged(child(0, 0, 1.0), child(1, 0, 2.0)) == (0, [])


def test_the_first_that_failed_by_itself_is_the_cause() -> None:
    assert judged(
        child(0, LOST, 1.0, printed="lost"),
        child(1, 1, 3.0, printed="late"),
        child(2, -11, 2.0, printed="a\nb"),
        child(3, -15, 4.0, told="SIGTERM", printed="ended"),
    ) == (
        139,
        [
            "process 1: late",
            "process 2: a",
            "process 2: b",
            "hmoe launch: process 2 was killed by SIGSEGV; log 2",
        ],
    )


def test_of_two_at_once_the_killed_one_is_the_cause() -> None:
    assert judged(child(1, 1, 2.0), child(2, -9, 2.0))[0] == 137


@pytest.mark.parametrize(("status", "lines"), [(2, []), (3, [LOST_LINE])])
def test_what_process_0_has_shown_is_not_shown_again(status: int, lines: list[str]) -> None:
    """It prints to the user itself, and may be the last to find what all find."""
    shown = child(0, status, 5.0)
    shown.output = None
    others = [child(number, status, 1.0, printed="the same") for number in (1, 2)]
    assert judged(shown, *others) == (status, lines)


def test_processes_of_another_host_lost_one() -> None:
    assert judged(child(4, LOST, 1.0, printed="lost 2"), child(5, LOST, 2.0, printed="lost 2")) == (
        3,
        [
            "process 4: lost 2",
            "hmoe launch: process 4 lost another process of the run; log 4",
        ],
    )


def test_of_several_that_were_ended_the_stuck_one_is_named() -> None:
    stuck = (
        "hmoe launch: process {0} was lost by the others and did not end by itself, so it was "
        "ended; log {0}"
    )
    lost = child(0, LOST, 1.0)
    slow = child(1, 143, 5.0, told="SIGTERM")
    assert judged(lost, slow, child(2, -9, 6.0, told="SIGTERM SIGKILL")) == (3, [stuck.format(2)])
    assert judged(lost, slow) == (3, [stuck.format(1)])


@pytest.mark.parametrize("status", [143, -15])
def test_a_stop_that_was_asked_for(status: int) -> None:
    assert judged(child(0, 0, 1.0), child(1, status, 1.0), told_to_stop=True) == (143, [])
    assert judged(child(0, 143, 1.0), child(1, 1, 1.0, printed="e"), told_to_stop=True) == (
        1,
        ["process 1: e", "hmoe launch: process 1 failed (exit status 1); log 1"],
    )


@pytest.mark.parametrize(
    ("status", "restarts"),
    [(0, False), (1, True), (2, False), (3, True), (137, True), (141, False), (143, False)],
)
def test_what_is_started_again(status: int, restarts: bool) -> None:
    assert verdict.Verdict(status).may_restart == restarts


def test_an_error_that_all_have_is_shown_once_by_the_first() -> None:
    """Whichever ended first; what it printed itself is not known here."""
    printed = "hmoe: error: training diverged"
    all_four = [child(n, 1, 4.0 - n, printed=printed if n else "") for n in range(4)]
    message = "hmoe launch: process 0 failed (exit status 1); log 0"
    assert judged(*all_four) == (1, [message])
    assert judged(*all_four[1:])[1] == [
        "process 1: hmoe: error: training diverged",
        "hmoe launch: process 1 failed (exit status 1); log 1",
    ]
    other = child(2, 1, 2.0, printed="another")
    assert judged(all_four[0], all_four[1], other)[1] == [
        "process 1: hmoe: error: training diverged",
        "process 2: another",
        message,
    ]
