"""The processes of `mesh_pool`: one that forks the others, and what each of those does.

Each one imports and runs TensorFlow as `hmoe train --workers` does. All of them end when the driver
does, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import pathlib
import signal
import sys
import time
import traceback
from typing import Any, NamedTuple, TextIO

from hmoe import compat
from hmoe.startup.workers import Workers

compat.behave_like_v1()

from benchmarks import sockets  # noqa: E402
from hmoe.compat.stack import tf  # noqa: E402
from hmoe.t5.sessions import processes  # noqa: E402

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """What a process does for the driver; it answers with the value that a method returns."""

    def __init__(self, addresses: list[str], index: int):
        self._workers = Workers(addresses=tuple(addresses), index=index, trust_network=True)
        processes.start(self._workers)
        self._side: Any = None

    def build(self, module: str, name: str, settings: dict) -> dict[str, Any]:
        """Builds a side of `benchmarks.sides`, in the place of the one before.

        Args:
          module: below `benchmarks.sides`.
          name: of the class.
          settings: its arguments.
        """
        # A server keeps the variables of sessions that have ended, by their names.
        self._side = None
        tf.Session.reset(processes.target(""), config=processes.session_config(tf.ConfigProto()))
        began = time.perf_counter()
        kind = getattr(importlib.import_module(f"benchmarks.sides.{module}"), name)
        self._side = kind(**settings)
        return {"seconds": time.perf_counter() - began, **self._side.describe()}

    def steps(self, number: int) -> list[float]:
        """Returns the seconds of each of several steps."""
        return [self._side.step() for _ in range(number)]

    def sent(self) -> int:
        """Returns the bytes that this process has sent on its sockets."""
        return sockets.on_sockets().sent

    def pid(self) -> int:
        """Returns the number of this process."""
        return os.getpid()

    def memory(self) -> int:
        """Returns the most memory that this process has held, in bytes."""
        return most_memory()


def most_memory() -> int:
    """Returns the most memory that this process has held, in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Child(NamedTuple):
    """A process that was forked.

    Attributes:
      pid: its number.
      words: where it is told what to do.
      answers: where it answers.
    """

    pid: int
    words: TextIO
    answers: TextIO


def main() -> None:
    """Forks the processes that a line asks for, and passes on the lines that are for them."""
    _end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    children: list[Child] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "do" in request:
            for child in children:
                # One that has ended is told by the answer that is missing.
                with contextlib.suppress(BrokenPipeError):
                    child.words.write(line)
                    child.words.flush()
        else:
            _end(children)
            addresses, places = request["addresses"], request["namespaces"]
            # As `hmoe launch` has it, so that they do not fight for cores.
            os.environ["HMOE_LOCAL_PROCESSES"] = str(len(addresses))
            children = [_forked(addresses, index, pid) for index, pid in enumerate(places)]
        lines = [child.answers.readline() or '{"error": "it has ended"}' for child in children]
        answers.write(f"[{', '.join(line.strip() for line in lines)}]\n")
        answers.flush()


def _end(children: list[Child]) -> None:
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        # What a process that ended had not read yet cannot be written any more.
        for end in (child.words, child.answers):
            with contextlib.suppress(BrokenPipeError):
                end.close()


def _forked(addresses: list[str], index: int, namespace: int | None) -> Child:
    """Forks a process."""
    (words_in, words_out), (answers_in, answers_out) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid:
        os.close(words_in)
        os.close(answers_out)
        return Child(pid, os.fdopen(words_out, "w"), os.fdopen(answers_in))
    try:
        _end_with_parent()
        if namespace is not None:
            _enter(namespace)
        _serve(addresses, index, os.fdopen(words_in), os.fdopen(answers_out, "w"))
    except BaseException:
        traceback.print_exc()
    os._exit(0)  # a server cannot be stopped


def _serve(addresses: list[str], index: int, words: TextIO, answers: TextIO) -> None:
    def answer(function: Any, **arguments: Any) -> Any:
        value = None
        try:
            value = function(**arguments)
            told = {"value": value if function != Process else index}
        except Exception as error:  # the driver tells it as its own
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()
        return value

    faulthandler.register(signal.SIGUSR1)
    process = answer(Process, addresses=addresses, index=index)
    for line in words:
        request = json.loads(line)
        answer(getattr(process, request["do"]), **request["arguments"])


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter(pid: int) -> None:
    """Moves this process into the network of another one."""
    with open(f"/proc/{pid}/ns/net") as space:
        if _libc.setns(space.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


if __name__ == "__main__":
    main()
