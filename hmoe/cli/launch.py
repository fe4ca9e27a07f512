"""Between the command line and TensorFlow: folders, the log, and errors in words."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
import time
import traceback
import warnings

from hmoe.startup import path_checks
from hmoe.startup.console import LOG_FILE, Console

DEFAULT_MODEL_DIR = "runs/default"


def run(flags: argparse.Namespace) -> int:
    """Runs a command, whose errors become a message and an exit status.

    Args:
      flags: of the command line; `model_dir` is filled in.

    Returns:
      The exit status.
    """
    console = Console()
    flags.model_dir = flags.model_dir or default_model_dir(flags)
    try:
        path_checks.check(flags)
        console.log_to(prepare_log(flags))
        _quiet_start()
        console.say(f"Loading TensorFlow (its log: {console.log_path}) ...")
        from hmoe.t5.commands import commands

        commands.run(flags, console)
    except KeyboardInterrupt:
        console.error("Interrupted.")
        return 130
    except Exception as error:
        if console.log_path:
            traceback.print_exc()
        console.error(describe(error, console.log_path))
        return 1
    return 0


def default_model_dir(flags: argparse.Namespace) -> str:
    """Where a run is kept if the user does not say: by the name of its gin file or its data."""
    if flags.command == "train" and (flags.gin_file or flags.data):
        source = flags.gin_file[-1] if flags.gin_file else flags.data
        return os.path.join("runs", os.path.splitext(os.path.basename(source))[0])
    return DEFAULT_MODEL_DIR


def prepare_log(flags: argparse.Namespace) -> str:
    """Makes sure that `model_dir` can be written where the command writes to it.

    Args:
      flags: of the command line.

    Returns:
      The path of the log: in `model_dir`, or in the system's folder for temporary files where
      the command only reads `model_dir` or that is not on this machine.

    Raises:
      ValueError: training, and the folder cannot be written.
    """
    folder = flags.model_dir
    temporary = os.path.join(tempfile.gettempdir(), f"hmoe-{os.getpid()}.log")
    if "://" in folder:
        return temporary
    path = os.path.join(folder, LOG_FILE)
    try:
        if flags.command == "train":
            os.makedirs(folder, exist_ok=True)
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} hmoe {' '.join(sys.argv[1:])}\n")
    except OSError as error:
        if flags.command != "train":
            return temporary
        raise ValueError(
            f"model_dir {folder!r} cannot be written ({error.strerror}: {error.filename!r}); name "
            "another folder with --model_dir"
        ) from error
    return path


def _quiet_start() -> None:
    """Sends what Python packages say at import to the log, without their old-age warnings."""
    warnings.simplefilter("ignore")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


def describe(error: Exception, log_path: str | None) -> str:
    """The error for the user: the message alone where the user can mend it.

    Args:
      error: what was raised.
      log_path: the log, which has the traceback; None if there is none yet.
    """
    text = re.sub(r"\n *In call to configurable [^\n]*", "", str(error)).strip()
    if isinstance(error, (ValueError, OSError)):
        return f"hmoe: error: {text}"
    if text.startswith("Required bindings for"):
        return (
            f"hmoe: error: {text}\nSet them in a gin file or with --gin_param; a layout file "
            "(layouts/one_device.gin) sets the mesh"
        )
    where = f"; the whole traceback is in {log_path}" if log_path else ""
    last = traceback.format_exception(type(error), error, error.__traceback__)[-4:]
    return f"{''.join(last)}hmoe: unexpected {type(error).__name__}{where}"
