"""`hmoe launch`: the flags of the launcher, and what it tells the user before it starts."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from hmoe.cli import flags as flags_lib
from hmoe.cli import launch as launch_lib
from hmoe.cli.parser import Parser
from hmoe.launcher import attempts, gpus, places, processes, spool
from hmoe.launcher.attempts import Launch
from hmoe.launcher.processes import Processes
from hmoe.launcher.watch import Patience
from hmoe.startup import flag_checks, path_checks, run_sources, saved_flags, worker_checks
from hmoe.startup.command_line import PROGRAM
from hmoe.startup.console import Console
from hmoe.startup.errors import is_bad_input
from hmoe.startup.exit_statuses import BAD_INPUT, FAILED
from hmoe.startup.gin_checks import input_files, mesh
from hmoe.startup.gin_checks import processes as gin_processes
from hmoe.startup.gin_reading import Reading
from hmoe.startup.log_file import name_of_number
from hmoe.startup.request import Request
from hmoe.startup.signals import Guard
from hmoe.startup.workers import LOST_AFTER
from hmoe.storage.local_files import is_elsewhere


def run(parser: Parser, flags: argparse.Namespace, guard: Guard) -> int:
    """Starts the processes that the flags ask for, and waits for them.

    Args:
      parser: the parser of the whole command.
      flags: the flags of `hmoe launch`.
      guard: handles signals.

    Returns:
      The exit status: that of the process that made the run fail.

    Raises:
      SystemExit: the command line is wrong.
    """
    words = flags.words[1:] if flags.words[:1] == ["--"] else flags.words
    _check(flags, words)
    given = parser.parse_args(words)
    _check_command(flags, given)
    request = Request.from_flags(given, environ={})
    console = Console(answers_only=request.command in launch_lib.ANSWERS)
    with contextlib.ExitStack() as stack:
        try:
            launch = _prepare(flags, words, given, request, console, stack)
        except Exception as error:
            console.error(launch_lib.describe(error, None, request))
            return BAD_INPUT if is_bad_input(error) else FAILED
        return attempts.run(launch, guard, console.say, console.error)


def _check(flags: argparse.Namespace, words: list[str]) -> None:
    """Exits with a message if flags of the launcher do not go together."""
    error = flags.parser.error
    if flags.hosts is None:
        for name in ("host_index", "workers_per_host"):
            if getattr(flags, name) is not None:
                error(f"--{name} goes with --hosts")
    elif flags.number is not None:
        error("give either -n, for this machine alone, or --hosts")
    elif flags.host_index is None:
        error("--hosts goes with --host_index")
    if not words:
        error("name the command to start, such as: hmoe launch -n 4 -- train")
    if words[0] not in flags_lib.OF_MANY_PROCESSES:
        error(f"it starts {', '.join(flags_lib.OF_MANY_PROCESSES)}, and not {words[0]!r}")
    if flags.restarts and words[0] != "train":
        error(f"--restarts is for train, which goes on from what it saved, and not {words[0]}")


def _check_command(flags: argparse.Namespace, given: argparse.Namespace) -> None:
    """Exits with a message if the command that is to be started has flags that cannot be."""
    for name in ("workers", "worker_index"):
        if getattr(given, name) is not None:
            flags.parser.error(f"--{name} is what it gives to each process; leave it out")
    flags_lib.check(given, launched=True)
    if given.tpu is not None:
        flags.parser.error("--tpu is for one process, which drives the TPU; start it by itself")


def _prepare(
    flags: argparse.Namespace,
    words: list[str],
    given: argparse.Namespace,
    request: Request,
    console: Console,
    stack: contextlib.ExitStack,
) -> Launch:
    """Checks what would make all processes fail, and tells the user what is started.

    Raises:
      ValueError: the processes cannot run this command.
    """
    flag_checks.check(request)
    path_checks.check(request)
    reading = run_sources.read(saved_flags.fill_in(request))
    found = _processes(flags, reading)
    trusted = flags.trust_network or given.trust_network
    if found.hosts:
        worker_checks.check_trusted(found.addresses(), "--hosts", trusted=trusted)
    if reading is not None:
        gin_processes.check_size(reading, found.total, found.given)
    extra = _flags(flags)
    if reading is not None and input_files.reads_standard_input(reading, request):
        extra.append(f"--input_file={_spooled(found, stack)}")
    for line in [*_places(reading, found), _announcement(found, request.model_dir)]:
        console.say(line)
    return Launch(
        processes=found,
        program=program(),
        command=tuple(words),
        flags=tuple(extra),
        model_dir=request.model_dir,
        restarts=flags.restarts,
        pause=_pause(flags) if found.hosts else 0.0,
        overwrites=request.overwrite,
    )


def _processes(flags: argparse.Namespace, reading: Reading | None) -> Processes:
    visible = gpus.visible(os.environ)
    if flags.hosts is not None:
        return processes.on_hosts(flags.hosts, flags.host_index, flags.workers_per_host, visible)
    slices = gin_processes.num_slices(reading) if reading is not None else None
    return processes.on_this_machine(flags.number, visible, slices)


def _flags(flags: argparse.Namespace) -> list[str]:
    """Returns the flags that are handed on to each process."""
    found = [
        f"--{name}={getattr(flags, name):g}"
        for name in ("lost_after", "start_within")
        if getattr(flags, name) is not None
    ]
    return found + ["--trust_network"] * flags.trust_network


def _pause(flags: argparse.Namespace) -> float:
    """Returns the seconds in which the processes of all hosts end after one has failed.

    Without it, processes that start again could meet those of another host that are about to end.
    """
    lost_after = LOST_AFTER if flags.lost_after is None else flags.lost_after
    return lost_after + Patience().notice + Patience().end


def _spooled(found: Processes, stack: contextlib.ExitStack) -> str:
    if found.hosts:
        raise ValueError(
            "processes on several hosts cannot share a prompt or standard input; give a text, or a "
            "file that all hosts find with --input_file"
        )
    return stack.enter_context(spool.standard_input())


def _places(reading: Reading | None, found: Processes) -> list[str]:
    if reading is None:
        return []
    shape, rules = mesh.shape_of(reading), mesh.rules_of(reading)
    if shape is None or rules is None:
        return []
    return places.lines(shape, rules, found.hosts_of_processes)


def _announcement(found: Processes, model_dir: str) -> str:
    numbers = found.numbers
    if len(numbers) == found.total == 1:
        return "Starting 1 process ..."
    first = "prints here" if 0 in numbers else f"prints on {found.hosts[0]}"
    where = "temporary files" if is_elsewhere(model_dir) else _logs(model_dir, numbers)
    which = f"{len(numbers)} processes"
    if len(numbers) < found.total:
        which = f"processes {numbers[0]} to {numbers[-1]} of {found.total}"
    return f"Starting {which}: process 0 {first}, others write to {where}"


def _logs(model_dir: str, numbers: range) -> str:
    first, last = max(1, numbers[0]), numbers[-1]
    path = os.path.join(model_dir, name_of_number(first))
    return path if first == last else f"{path} to {name_of_number(last)}"


def program() -> tuple[str, ...]:
    """Returns the words that start this program: the same Python, and the same script or module."""
    called = sys.argv[0]
    if os.path.basename(called) == PROGRAM and os.path.isfile(called):
        return (sys.executable, os.path.abspath(called))
    return (sys.executable, "-m", "hmoe.cli.main")
