"""Lets one command at a time write to the folder of a model.

The lock is the operating system's, so that it ends with the process that holds it, however it ends.
A folder on another machine ("gs://...") has none.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import filelock

from hmoe.startup import signals
from hmoe.startup.request import Request
from hmoe.storage import atomic_write
from hmoe.storage.local_files import is_elsewhere, missing_folders

LOCK_FILE = ".hmoe.lock"
# Names the process that holds the lock; it counts only while the lock is held.
HOLDER_FILE = ".hmoe.lock.json"
FILES = (LOCK_FILE, HOLDER_FILE)


@contextlib.contextmanager
def held(request: Request, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of the folder that a command writes to, if it writes to one.

    Of the processes of a run, the first holds it for all of them.

    Args:
      request: the command.
      warn: prints a line for the user, where the folder can have no lock.

    Raises:
      ValueError: another process holds it; the message names that process.
    """
    folder = request.output_dir or (request.model_dir if request.command == "train" else None)
    if folder is None or (request.workers and not request.workers.is_first):
        yield
        return
    if is_elsewhere(folder):
        warn(_without_lock(folder, "it is on another machine"))
        yield
        return
    made = missing_folders(folder)
    lock = _acquired(folder, warn)
    if lock is None:
        yield
        return
    release = functools.partial(_release, lock, folder, made)
    # Last: while the command still writes, another must not begin to.
    with signals.cleanup(release, last=True):
        try:
            yield
        finally:
            release()


def _acquired(folder: str, warn: Callable[[str], None]) -> filelock.BaseFileLock | None:
    """Acquires the lock of a folder; None where none can be made, which the user is told."""
    path = os.path.join(folder, LOCK_FILE)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return None  # what else is to be written there fails as well, and says why
    try:
        lock = filelock.FileLock(path)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(_refusal(folder)) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, PermissionError) and os.path.lexists(path):
            raise ValueError(_refusal_of_another_user(folder)) from error
        warn(_without_lock(folder, getattr(error, "strerror", None) or str(error)))
        return None
    with contextlib.suppress(OSError):
        atomic_write.write_text(os.path.join(folder, HOLDER_FILE), json.dumps(_myself()) + "\n")
    return lock


def _release(lock: filelock.BaseFileLock, folder: str, made: Sequence[str]) -> None:
    """Removes the lock's files while it is still held, then releases it.

    Args:
      lock: the lock.
      folder: its folder.
      made: the folders that the command made for it, outermost first; those in which it left
        nothing are removed as well.
    """
    # A process that waits with the removed file open finds out, and makes a new one.
    for name in (HOLDER_FILE, LOCK_FILE):
        with contextlib.suppress(OSError):
            os.remove(os.path.join(folder, name))
    with contextlib.suppress(OSError):
        for each in reversed(made):
            os.rmdir(each)
    lock.release()


def _without_lock(folder: str, reason: str) -> str:
    return (
        f"Warning: {folder!r} has no lock ({reason}); see to it that no other command writes to it "
        "meanwhile"
    )


def _refusal_of_another_user(folder: str) -> str:
    return (
        f"{folder!r} is in use by another user, or that user's command was killed: "
        f"{LOCK_FILE} in it is not yours. Name another folder, or have that file removed if no "
        "command of theirs runs"
    )


def _myself() -> dict[str, str | int]:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _refusal(folder: str) -> str:
    who = "another process"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        with open(os.path.join(folder, HOLDER_FILE), encoding="utf-8") as file:
            holder = json.load(file)
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    return (
        f"{folder!r} is in use by {who}; wait until that command ends, or name another folder. "
        "Two commands that write to one folder would lose each other's checkpoints"
    )
