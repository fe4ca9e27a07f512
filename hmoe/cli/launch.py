"""The way from the command line to TensorFlow: folders, the log, and errors in plain words."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import time
import traceback
import warnings

from hmoe.startup import disk_full, local_files, request_checks, run_lock
from hmoe.startup.console import LOG_FILE, Console
from hmoe.startup.request import Request

# Commands whose standard output is kept for their answers; what they do is said on standard error.
_ANSWERS = ("predict", "score")


def run(request: Request) -> int:
    """Runs a command, and turns its errors into a message and an exit status.

    Args:
      request: the command and its flags.

    Returns:
      The exit status: 0, 1 for an error, 2 for one that the user can mend, 130 if the user
      interrupted.
    """
    console = Console(answers_only=request.command in _ANSWERS)
    try:
        for warning in request_checks.check(request):
            console.error(f"Warning: {warning}")
        with run_lock.held(request):
            _run(request, console)
    except KeyboardInterrupt:
        console.error("Interrupted.")
        return 130
    except Exception as error:
        if console.log_path:
            with contextlib.suppress(OSError):  # the log's disk may be full
                traceback.print_exc()
        full = disk_full.message(error, request.output_dir or request.model_dir)
        console.error(f"hmoe: error: {full}" if full else describe(error, console.log_path))
        return 2 if isinstance(error, ValueError) and not full else 1
    return 0


def _run(request: Request, console: Console) -> None:
    """Begins the log, loads TensorFlow, and runs the command."""
    console.log_to(prepare_log(request))
    _quiet_start()
    console.say(f"Loading TensorFlow (log: {console.log_path}) ...")
    from hmoe.t5.commands import commands

    commands.run(request, console)


def prepare_log(request: Request) -> str:
    """Begins the log of a command, and creates the folder that training writes to.

    Returns:
      The path of the log: in `model_dir`, or in the system's folder for temporary files if
      `model_dir` is on another machine, or is only read and cannot be written.

    Raises:
      ValueError: the command trains, and `model_dir` cannot be written.
    """
    folder = request.model_dir
    temporary = os.path.join(tempfile.gettempdir(), f"hmoe-{os.getpid()}.log")
    if local_files.is_elsewhere(folder):
        return temporary
    path = os.path.join(folder, LOG_FILE)
    try:
        if request.command == "train":
            os.makedirs(folder, exist_ok=True)
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} hmoe {' '.join(sys.argv[1:])}\n")
    except OSError as error:
        if request.command != "train":
            return temporary
        raise ValueError(
            f"model_dir {folder!r} cannot be written ({error.strerror}: {error.filename!r}); name "
            "another folder with --model_dir"
        ) from error
    return path


def _quiet_start() -> None:
    """Sends what Python packages log at import to standard error, and silences their warnings."""
    warnings.simplefilter("ignore")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


def describe(error: Exception, log_path: str | None) -> str:
    """Returns the text of an error for the user: only its message if the user can fix it.

    Args:
      error: the error.
      log_path: path of the log, which has the traceback; None if there is no log yet.
    """
    text = re.sub(r"\n *In call to configurable [^\n]*", "", str(error)).strip()
    if isinstance(error, (ValueError, OSError)):
        return f"hmoe: error: {text}"
    if text.startswith("Required bindings for"):
        return (
            f"hmoe: error: {text}\nSet them in a gin file or with --gin_param; a layout file "
            "(layouts/one_device.gin) sets the mesh"
        )
    where = f"; the full traceback is in {log_path}" if log_path else ""
    last = traceback.format_exception(type(error), error, error.__traceback__)[-4:]
    return f"{''.join(last)}hmoe: unexpected {type(error).__name__}{where}"
