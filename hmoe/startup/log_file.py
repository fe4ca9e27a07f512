"""The log of a command: in the model's folder, or else a temporary file, for its owner alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import stat
import sys
import tempfile
import time

from hmoe.startup import run_lock
from hmoe.startup.console import LOG_FILE
from hmoe.startup.request import Request
from hmoe.startup.workers import Workers
from hmoe.storage import disk_full
from hmoe.storage.local_files import is_elsewhere, missing_folders

# Logs of the processes of a run, which come and go together.
_OF_A_PROCESS = re.compile(r"process_\d+\.log")


def name_of(workers: Workers | None) -> str:
    """Returns the name of the log of a process in the model's folder."""
    return LOG_FILE if workers is None else name_of_number(workers.index)


def name_of_number(number: int) -> str:
    """Returns the name of the log of the process of a number."""
    return f"process_{number}.log" if number else LOG_FILE


@dataclasses.dataclass(frozen=True)
class Log:
    """A log that has begun.

    Attributes:
      path: its path; the null device if there is no room for a log anywhere.
      is_temporary: whether it is in the system's folder for temporary files.
      made: the folders that were made for it, outermost first.
      beside: the names in its folder before; None if the log was there already.
    """

    path: str
    is_temporary: bool = False
    made: tuple[str, ...] = ()
    beside: frozenset[str] | None = None

    def withdraw(self) -> None:
        """Removes a log that nobody needs: of a command that wrote nothing else.

        A temporary log goes. So does one that was made in a folder in which nothing else was
        written, with the folder if it was made for the log: a training that failed before it began
        leaves nothing. Other logs stay.
        """
        if self.is_temporary:
            self.remove()
        elif self.beside is not None and self._is_alone():
            self.remove()
            with contextlib.suppress(OSError):
                for folder in reversed(self.made):
                    os.rmdir(folder)

    def remove(self) -> None:
        """Removes the file."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _is_alone(self) -> bool:
        try:
            names = os.listdir(os.path.dirname(self.path) or os.curdir)
        except OSError:
            return False
        others = set(names) - (self.beside or set()) - {LOG_FILE, *run_lock.FILES}
        return all(_OF_A_PROCESS.fullmatch(name) for name in others)


def begin(request: Request) -> Log:
    """Begins the log of a command, and makes the folder that training writes to.

    Returns:
      The log: in `model_dir`, or a temporary file if the command writes nothing, or `model_dir` is
      on another machine, is only read and cannot be written, or has something else than a file in
      the log's place.

    Raises:
      ValueError: the command trains, and `model_dir` cannot be written.
      OSError: the command trains, and there is no room.
    """
    folder = request.model_dir
    if is_elsewhere(folder) or request.plan:
        return _temporary()
    made = missing_folders(folder) if request.command == "train" else ()
    try:
        if request.command == "train":
            os.makedirs(folder, exist_ok=True)
        return _in_folder(folder, name_of(request.workers), made)
    except (_NoFileError, _NotOursError):
        return _temporary()
    except OSError as error:
        if request.command != "train":
            return _temporary()
        Log("", made=made).withdraw()
        raise _cannot_write(folder, error) from error


class _NoFileError(Exception):
    """A link, a pipe or the like stands where the log belongs."""


class _NotOursError(Exception):
    """The log is another user's, in a folder that several write to."""


def _in_folder(folder: str, name: str, made: tuple[str, ...]) -> Log:
    path = os.path.join(folder, name)
    beside = None if os.path.lexists(path) else frozenset(os.listdir(folder))
    if beside is None and not stat.S_ISREG(os.lstat(path).st_mode):
        raise _NoFileError
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        if beside is None and os.access(folder, os.W_OK):
            raise _NotOursError from error
        raise
    log = Log(path, made=made, beside=beside)
    try:
        _keep_to_owner(number)
        with disk_full.naming(path):
            os.write(number, _first_line())
    except OSError:
        log.withdraw()
        raise
    finally:
        os.close(number)
    return log


def _temporary() -> Log:
    # A name that nobody can foresee, and a file that nobody else can read or has made before.
    try:
        number, path = tempfile.mkstemp(prefix="hmoe-", suffix=".log")
    except OSError:
        return Log(os.devnull)
    with contextlib.suppress(OSError):
        os.write(number, _first_line())
    os.close(number)
    return Log(path, is_temporary=True)


def _keep_to_owner(number: int) -> None:
    """Closes a log, which holds command lines, to others; an older hmoe left it open to them."""
    status = os.fstat(number)
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        with contextlib.suppress(OSError):
            os.fchmod(number, 0o600)


def _first_line() -> bytes:
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} hmoe {shlex.join(sys.argv[1:])}\n"
    return line.encode("utf-8", "backslashreplace")


def _cannot_write(folder: str, error: OSError) -> Exception:
    if disk_full.is_full(error):
        return error
    named = f": {error.filename!r}" if error.filename else ""
    return ValueError(
        f"model_dir {folder!r} cannot be written ({error.strerror}{named}); name another folder "
        "with --model_dir"
    )
