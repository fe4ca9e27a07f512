"""The processes that `hmoe launch` starts: none of them outlives it, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from hmoe.launcher import gpus

# Tells each process how many share the cores of this machine.
LOCAL_PROCESSES = "HMOE_LOCAL_PROCESSES"
_TF_CONFIG = "TF_CONFIG"
# prctl's number for the signal that a process gets when its parent dies.
_PR_SET_PDEATHSIG = 1
# How much of what a process printed is shown when it fails.
_SHOWN_BYTES = 4000
# Seconds in which a killed process is gone, unless its disk hangs.
_SECONDS = 10


@dataclasses.dataclass
class Child:
    """A process of the run.

    Attributes:
      number: its number in the run.
      process: the process.
      output: what it prints; None for the one that prints to the user.
      ended_at: when it was found ended, by `time.monotonic`; None while it runs.
      told: the signals that it was sent because others failed.
    """

    number: int
    process: subprocess.Popen
    output: IO[bytes] | None
    ended_at: float | None = None
    told: list[signal.Signals] = dataclasses.field(default_factory=list)

    @property
    def status(self) -> int | None:
        """Its exit status, or minus the signal that killed it; None while it runs."""
        return self.process.returncode

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None

    def look(self) -> None:
        """Notes the time if it has ended."""
        if self.runs and self.process.poll() is not None:
            self.ended_at = time.monotonic()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to it, and SIGKILL to all that it started, if it runs."""
        if self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)  # it leads a group of its own
            else:
                self.process.send_signal(number)

    def printed(self) -> str:
        """Returns the end of what it printed."""
        if self.output is None:
            return ""
        size = self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, size - _SHOWN_BYTES))
        return self.output.read().decode("utf-8", "replace").strip()


def start(
    commands: Mapping[int, Sequence[str]], visible: Sequence[str], environ: Mapping[str, str]
) -> list[Child]:
    """Starts processes, each in a session of its own, so that signals of a terminal pass it by.

    Process 0 prints where the launcher prints; what others print is kept.

    Args:
      commands: the command of each process, by its number.
      visible: the GPU of each process, as CUDA_VISIBLE_DEVICES names it; () to leave that as it is.
      environ: the environment.

    Raises:
      OSError: a process cannot be started; those before it are killed.
    """
    children: list[Child] = []
    try:
        for place, (number, command) in enumerate(commands.items()):
            given = {k: v for k, v in environ.items() if k != _TF_CONFIG}
            given[LOCAL_PROCESSES] = str(len(commands))
            if visible:
                given[gpus.VISIBLE] = visible[place]
            children.append(_start(number, command, given))
    except BaseException:
        kill(children)
        raise
    return children


def _start(number: int, command: Sequence[str], environ: Mapping[str, str]) -> Child:
    output = tempfile.TemporaryFile() if number else None  # noqa: SIM115 (kept by the child)
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_end_with(os.getpid()),
    )
    return Child(number, process, output)


def _end_with(parent: int) -> Callable[[], None] | None:
    """Returns what a new process does for the system to kill it when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(1)

    return prepare


def kill(children: Sequence[Child]) -> None:
    """Kills those that run, and waits for them."""
    for child in children:
        child.send(signal.SIGKILL)
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(_SECONDS)
        child.look()
