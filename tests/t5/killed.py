"""Kills the process that imports it, as `kill -9` does: at a named point, or after some time.

A command imports it with `--module_import`. The file that the environment variable `KILLED` names
says when: a number of seconds after "now"; a number such as 3.04 after "step", for 0.04 seconds after
the third step of the session; or the name of a point and how often it is passed before.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmoe.storage import atomic_write, checkpoint_manifest, checkpoint_saving
from hmoe.t5.sessions import hooks, saved_sums

KILLED = "HMOE_TESTS_KILLED"


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before_data(call: Callable[..., Any], folder: str, step: int) -> None:
    """The save is marked, and nothing of it written."""
    call(folder, step)
    kill()


def _between_data_and_index(call: Callable[..., Any], path: str, collector: Any) -> None:
    """TensorFlow writes the index last; what it leaves if it dies before is data without one."""
    os.remove(f"{path}.index")
    kill()


def _while_old_files_go(call: Callable[..., Any], folder: str, name: str) -> None:
    """One file of an old checkpoint is gone, the others are there."""
    call(folder, name)
    if name.endswith(".index"):
        kill()


def _at_once(call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    kill()


def _between_the_files_of_the_run(call: Callable[..., Any], path: str, text: str) -> None:
    if path.endswith("run.json"):
        kill()
    call(path, text)


# The function that a point replaces, and what it does instead.
POINTS: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "before data": (checkpoint_saving, "mark_unfinished", _before_data),
    "between data and index": (saved_sums, "write", _between_data_and_index),
    "between index and manifest": (checkpoint_manifest, "write", _at_once),
    "between manifest and `checkpoint`": (checkpoint_saving, "write_state", _at_once),
    "while old files go": (checkpoint_saving, "delete", _while_old_files_go),
    "between config.gin and run.json": (
        atomic_write,
        "write_text",
        _between_the_files_of_the_run,
    ),
}


def at(point: str, passes: int) -> None:
    """Kills this process at a point, when it has been passed some times."""
    module, name, instead = POINTS[point]
    call, left = getattr(module, name), [passes]

    def replacement(*arguments: Any, **named: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            return call(*arguments, **named)
        return instead(call, *arguments, **named)

    setattr(module, name, replacement)


def after(seconds: float) -> None:
    """Kills this process some time from now."""
    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()


def after_steps(moment: float) -> None:
    """Kills this process after some steps of its session, and the fraction of a second."""
    after_step, left = hooks.SaveHook.after_step, [int(moment)]

    def replacement(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            after(moment % 1)
        after_step(*arguments)

    hooks.SaveHook.after_step = replacement  # type: ignore[method-assign]


def _read() -> None:
    words = Path(os.environ[KILLED]).read_text(encoding="utf-8").rsplit(maxsplit=1)
    if not words:
        return
    start, number = words
    if start in POINTS:
        at(start, int(number))
    else:
        {"now": after, "step": after_steps}[start](float(number))


if KILLED in os.environ:
    _read()
