"""Runs the processes of a run to their end, and starts all again after a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence

from hmoe.launcher import children as children_lib
from hmoe.launcher import verdict, watch
from hmoe.launcher.processes import Processes
from hmoe.launcher.verdict import Verdict
from hmoe.launcher.watch import Patience
from hmoe.startup import log_file, signals
from hmoe.startup.signals import Guard, OrderlyStop
from hmoe.storage import checkpoint_files
from hmoe.storage.local_files import is_elsewhere, missing_folders

# Seconds between two looks at whether the launcher was told to stop.
_BETWEEN_LOOKS = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """What `hmoe launch` was asked for.

    Attributes:
      processes: the processes.
      program: the words that start this program.
      command: the words of the command that each process runs, such as ("train", "--data=a.tsv").
      flags: flags that each process gets beside its addresses and its number.
      model_dir: the folder of the run, which has the logs.
      restarts: how many times all are started again after a failure.
      pause: seconds before another start, in which the processes of other hosts end as well.
      overwrites: whether the command begins a run anew, which another start must not do again.
      patience: how long processes may take to end.
    """

    processes: Processes
    program: tuple[str, ...]
    command: tuple[str, ...]
    flags: tuple[str, ...] = ()
    model_dir: str
    restarts: int = 0
    pause: float = 0.0
    overwrites: bool = False
    patience: Patience = Patience()


def run(
    launch: Launch,
    guard: Guard,
    say: Callable[[str], None],
    error: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Runs all processes, again after a failure if that is wanted; returns the exit status.

    Args:
      launch: what was asked for.
      guard: handles signals.
      say: prints a line about what happens.
      error: prints a line about what failed.
      environ: the environment of the processes.
    """
    before = _saved(launch.model_dir)
    made = () if is_elsewhere(launch.model_dir) else missing_folders(launch.model_dir)
    stop = OrderlyStop(_say_nothing)
    stop.arm()
    try:
        for left in range(launch.restarts, -1, -1):
            has_saved = launch.overwrites and bool(_saved(launch.model_dir) - before)
            found, first = _attempt(launch, guard, stop, environ, has_saved=has_saved)
            for line in found.lines:
                error(line)
            if stop.asked() and found.status:
                return _farewell(guard, first)
            if not left or not found.may_restart:
                break
            say(f"Starting all processes again ({_times(left - 1)} left after this) ...")
            if _stopped_within(launch.pause, stop):
                return guard.farewell()
    finally:
        stop.disarm()
        _remove_empty(made)
    return found.status


def _stopped_within(seconds: float, stop: OrderlyStop) -> bool:
    """Waits some seconds; returns whether the launcher was told to stop meanwhile."""
    end = time.monotonic() + seconds
    while not stop.asked() and time.monotonic() < end:
        time.sleep(_BETWEEN_LOOKS)
    return stop.asked()


def _attempt(
    launch: Launch,
    guard: Guard,
    stop: OrderlyStop,
    environ: Mapping[str, str],
    *,
    has_saved: bool,
) -> tuple[Verdict, int | None]:
    """Runs all processes once; returns how that ended, and the status of the one that prints."""
    commands = commands_of(launch, has_saved=has_saved)
    children = children_lib.start(commands, launch.processes.gpus, environ)
    with guard.cleanup(lambda: children_lib.kill(children)):
        try:
            watch.wait(children, stop.asked, launch.patience)
        finally:
            children_lib.kill(children)
        found = verdict.of(children, lambda n: _log(launch.model_dir, n), told_to_stop=stop.asked())
    for child in children:
        if child.output:
            child.output.close()
    return found, next((each.status for each in children if each.number == 0), None)


def commands_of(launch: Launch, *, has_saved: bool) -> dict[int, list[str]]:
    """Returns the command of each process of this machine, by its number.

    Args:
      launch: what was asked for.
      has_saved: whether a run that begins anew has saved, so that it is to be resumed now.
    """
    addresses = ",".join(launch.processes.addresses())
    name, *words = launch.command
    anew = ["--nooverwrite"] if has_saved else []
    return {
        number: [
            *launch.program,
            name,
            f"--workers={addresses}",
            f"--worker_index={number}",
            *launch.flags,
            *words,
            *anew,
        ]
        for number in launch.processes.numbers
    }


def _saved(model_dir: str) -> set[tuple[str, int]]:
    """Returns the checkpoints of a folder, each with the time of its writing."""
    found: set[tuple[str, int]] = set()
    if is_elsewhere(model_dir):
        return found
    for step in checkpoint_files.saved_steps(model_dir):
        name = f"model.ckpt-{step}.index"
        with contextlib.suppress(OSError):
            found.add((name, os.stat(os.path.join(model_dir, name)).st_mtime_ns))
    return found


def _log(model_dir: str, number: int) -> str:
    path = os.path.join(model_dir, log_file.name_of_number(number))
    return f"its log is {path}" if os.path.exists(path) else "it had begun no log"


def _farewell(guard: Guard, first: int | None) -> int:
    """Says that a signal stopped the run, unless process 0 has; returns the exit status."""
    number = guard.received or signals.signal.SIGINT
    status = signals.exit_status(number)
    return status if first == status else guard.farewell()


def _times(number: int) -> str:
    return f"{number} restart{'s' * (number != 1)}"


def _remove_empty(folders: Sequence[str]) -> None:
    """Removes folders in which processes that failed early have left nothing."""
    with contextlib.suppress(OSError):
        for folder in reversed(folders):
            os.rmdir(folder)


def _say_nothing(line: str) -> None:
    """Leaves it to the first process to say that it stops."""
