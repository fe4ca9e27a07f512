"""Ctrl-C, SIGTERM and SIGHUP end a command whatever it does, once, with a line and a status."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from hmoe.startup import signals
from tests import patience

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {
    signal.SIGINT: "Interrupted.\n",
    signal.SIGTERM: "Ended by SIGTERM.\n",
    signal.SIGHUP: "Ended by SIGHUP.\n",
}

BEGIN = """
import sys, time
from hmoe.startup import signals
guard = signals.Guard().__enter__()
def work():
    print("ready", flush=True)
    time.sleep(20)
"""
# Hides what is raised, as a callback of a package does while modules are imported.
SWALLOWING = """
class Swallows:
    def __del__(self):
        work()
Swallows()
"""
RAISING = """
with guard.raising():
    try:
        work()
    except KeyboardInterrupt:
        print("cleaned", flush=True)
        sys.exit(guard.farewell())
"""
# Drops what is raised, and goes on.
DEAF = """
with guard.raising():
    try:
        work()
    except KeyboardInterrupt:
        print("dropped", flush=True)
        time.sleep(20)
"""
ORDERLY = """
stop = signals.OrderlyStop(lambda line: print(line, flush=True))
with guard.raising():
    stop.arm()
    print("ready", flush=True)
    while not stop.asked():
        time.sleep(0.01)
    SAVE
    stop.disarm()
    print("saved", flush=True)
    sys.exit(guard.farewell())
"""


def started(code: str, ignored: tuple[signal.Signals, ...] = ()) -> subprocess.Popen:
    """A process that has printed "ready"; signals do what they do to one of a terminal."""

    def at_first() -> None:
        for number in STATUS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=at_first,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=patience.HANG)
    return process.returncode, out, error


@pytest.mark.parametrize("number", list(STATUS), ids=lambda number: number.name)
@pytest.mark.parametrize("code", [SWALLOWING, RAISING], ids=["importing", "running"])
def test_each_signal_ends_at_once(code: str, number: signal.Signals) -> None:
    process = started(code)
    process.send_signal(number)
    begun = time.time()
    out = "cleaned\n" if code is RAISING else ""
    assert ended(process) == (STATUS[number], out, WORDS[number])
    assert time.time() - begun < signals.GRACE


def test_a_command_that_drops_the_exception_ends_after_a_while() -> None:
    process = started(DEAF)
    process.send_signal(signal.SIGINT)
    begun = time.time()
    assert ended(process) == (130, "dropped\n", "Interrupted.\n")
    assert signals.GRACE - 0.5 < time.time() - begun < signals.GRACE + 5


def test_a_second_signal_does_not_wait() -> None:
    process = started(DEAF)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    begun = time.time()
    assert ended(process) == (130, "dropped\n", "Interrupted.\n")
    assert time.time() - begun < 1.5


@pytest.mark.parametrize("number", list(STATUS), ids=lambda number: number.name)
def test_training_stops_in_order(number: signal.Signals) -> None:
    process = started(ORDERLY.replace("SAVE", "time.sleep(2.5)"))
    process.send_signal(number)
    said = "Stopping after this step and saving; press Ctrl-C again to stop at once\n"
    assert ended(process) == (STATUS[number], f"{said}saved\n", WORDS[number])


def test_a_second_signal_in_training_stops_at_once() -> None:
    process = started(ORDERLY.replace("SAVE", "time.sleep(20)"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    status, out, error = ended(process)
    assert (status, error) == (130, "Interrupted.\n")
    assert "saved" not in out


def test_ignored_signals_stay_ignored() -> None:
    """As after `nohup`."""
    process = started(RAISING, ignored=(signal.SIGHUP,))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "cleaned\n", "Ended by SIGTERM.\n")


def test_cleanups_run_when_the_process_is_ended(tmp_path) -> None:
    path = tmp_path / "left"
    path.write_text("")
    process = started(
        f"import os\nwith signals.cleanup(lambda: os.unlink({str(path)!r})):\n    work()\n"
    )
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 143
    assert not path.exists()


def test_a_guard_puts_handlers_back() -> None:
    before = [signal.getsignal(number) for number in STATUS]
    with signals.Guard() as guard:
        signal.raise_signal(signal.SIGWINCH)
        assert guard.received is None
    assert [signal.getsignal(number) for number in STATUS] == before


def test_without_a_guard_a_second_signal_raises() -> None:
    """In a program that calls the trainer itself."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    lines: list[str] = []
    stop = signals.OrderlyStop(lines.append)
    try:
        stop.arm()
        signal.raise_signal(signal.SIGINT)
        assert stop.asked()
        assert len(lines) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        stop.disarm()
        signal.signal(signal.SIGINT, before)
