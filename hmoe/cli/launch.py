"""The way from the command line to TensorFlow: folders, the log, and errors in plain words."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import traceback
import warnings
from types import ModuleType

from hmoe.startup import (
    configuration,
    errors,
    garbage,
    log_file,
    model_imports,
    new_run,
    request_checks,
    run_lock,
    workers,
)
from hmoe.startup.console import Console, ReaderGoneError
from hmoe.startup.exit_statuses import BAD_INPUT, FAILED, LOST, OK, READER_GONE
from hmoe.startup.log_file import Log
from hmoe.startup.request import Request
from hmoe.startup.signals import Guard
from hmoe.storage import disk_full

# Commands whose standard output is kept for their answers; what they do is said on standard error.
ANSWERS = ("predict", "score", "plan", "trace", "ablate")


def run(request: Request, guard: Guard) -> int:
    """Runs a command, and turns its errors into a message and an exit status.

    Args:
      request: the command and its flags.
      guard: handles signals.

    Returns:
      The exit status: 0; 2 for bad input, 3 if another process of the run was lost, 1 for any other
      failure; 130, 143 or 129 if Ctrl-C, SIGTERM or SIGHUP ended it; 141 if nobody reads the
      answers any more.
    """
    quiet = request.workers is not None and not request.workers.is_first
    console = Console(answers_only=request.command in ANSWERS, quiet=quiet)
    if request.workers is not None:
        guard.leave_hard()
    guard.tell_by(console.error)
    with contextlib.ExitStack() as stack:
        try:
            warnings_found = request_checks.check(request)
            default_job = new_run.announcement(request)
            foreign = model_imports.announcement(request)
            if foreign:  # before anything that it names is reached
                console.say(foreign)
            configuration.check_master(request)
            stack.enter_context(run_lock.held(request, console.error))
            log = log_file.begin(request)
        except Exception as error:
            console.error(describe(error, None, request))
            return BAD_INPUT if errors.is_bad_input(error) else FAILED
        for warning in warnings_found:
            (console.say if quiet else console.error)(f"Warning: {warning}")
        if default_job:
            console.say(default_job)
        with guard.cleanup(log.withdraw):
            return _run_logged(request, console, guard, log)


def _run_logged(request: Request, console: Console, guard: Guard, log: Log) -> int:
    """Runs a command whose log has begun, and removes the log if nobody needs it."""
    status = FAILED
    try:
        console.log_to(log.path)
        _quiet_start()
        if request.workers:
            console.say(workers.notice(request.workers))
        console.say(f"Loading TensorFlow (log: {console.log_path}) ...")
        commands = _load_commands()
        with guard.raising():
            commands.run(request, console)
        status = OK
    except KeyboardInterrupt:
        status = guard.farewell()
    except ReaderGoneError:
        status = READER_GONE
    except Exception as error:
        status = _report(error, console, guard, log, request)
    if status == OK and log.is_temporary:
        log.remove()
    elif status not in (OK, FAILED, LOST):
        log.withdraw()
    return status


def _report(error: Exception, console: Console, guard: Guard, log: Log, request: Request) -> int:
    """Prints an error, and its traceback to the log; returns the exit status."""
    with contextlib.suppress(OSError, ValueError):  # a full disk, or a closed file
        traceback.print_exc()
    if guard.interrupted:
        return guard.farewell()
    console.error(describe(error, console.log_path, request))
    if errors.is_bad_input(error):
        return BAD_INPUT
    if isinstance(error, errors.ProcessLostError):
        return LOST
    if log.is_temporary and isinstance(error, (ValueError, OSError)):
        console.error(f"The log is {log.path}")
    return FAILED


def _load_commands() -> ModuleType:
    """Imports the commands, and with them TensorFlow.

    The garbage collector would take two seconds of it, and one more at the end of the process.
    """
    num_modules = len(sys.modules)
    with garbage.uncollected():
        from hmoe.t5.commands import commands
    if len(sys.modules) > num_modules:
        garbage.keep()
    return commands


def _quiet_start() -> None:
    """Sends what Python packages log at import to standard error, and silences their warnings."""
    warnings.simplefilter("ignore")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


def describe(error: Exception, log_path: str | None, request: Request | None = None) -> str:
    """Returns the text of an error for the user: only its message if the user can fix it.

    Args:
      error: the error.
      log_path: path of the log, which has the traceback; None if there is no log yet.
      request: the command, whose folder is named if a disk is full; None if it writes to none.
    """
    full = _full_disk(error, request)
    if full:
        return f"hmoe: error: {full}"
    text = re.sub(r"\n *In call to configurable [^\n]*", "", _text(error)).strip()
    if isinstance(error, (ValueError, OSError)):
        return f"hmoe: error: {text}"
    if errors.is_unbound(error):
        return (
            f"hmoe: error: {text}\nSet them in a gin file or with --gin_param; a layout file "
            "(layouts/one_device.gin) sets the mesh"
        )
    where = f"; the full traceback is in {log_path}" if log_path else ""
    last = traceback.format_exception(type(error), error, error.__traceback__)[-4:]
    return f"{''.join(last)}hmoe: unexpected {type(error).__name__}{where}"


def _full_disk(error: Exception, request: Request | None) -> str | None:
    """Returns a sentence about a full disk, if that is what ended a command."""
    if isinstance(error, errors.RunFailedError):  # which has a sentence of its own
        return None
    folder = (request.output_dir or request.model_dir) if request else "."
    said = disk_full.message(error, folder)
    if said and request and request.command == "train":
        return f"{said}. Checkpoints that were saved before are intact"
    return said


def _text(error: Exception) -> str:
    """Returns an error's message, of the system's errors without their number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
