"""A side in a process of its own: the process's part, and the driver's.

They talk in lines of JSON: the driver sends {"do": "step"}, the process answers {"value": 0.61} or
{"error": "..."}. Words are the methods of a side:

- describe: what work it does, and with which library and versions.
- step: seconds of one forward and backward pass; or a dict of seconds by name, "step" among them.
- peak: FLOP/s of one large matrix multiply of the same library; 0 where there is no such thing.
- compare: writes outputs, loss and gradients into an .npz file.
- memory: bytes, see `_memory`.
- stop.

A process waits for its next word without using a processor, so that others can be timed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Steps before and while memory is read, since graphs settle after the first.
_STEPS_FOR_MEMORY = 2


class SideError(Exception):
    """A side could not do what it was asked."""


def serve(module: str, name: str, settings: dict) -> None:
    """The process: builds a side, then does what it is told until it is told to stop.

    Args:
      module: below `benchmarks.sides`.
      name: of the class.
      settings: its arguments.
    """
    # Answers go where standard output went; what libraries print goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = None
    baseline = 0
    words = {
        "memory": lambda: _memory(side, baseline),
        "compare": lambda path: side.compare(path),
        "describe": lambda: side.describe(),
        "step": lambda: side.step(),
        "peak": lambda: side.peak(),
    }

    def answer(function, **arguments):
        try:
            told = {"value": function(**arguments)}
        except Exception as error:  # the driver tells it as its own
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()

    def build():
        nonlocal side, baseline
        kind = getattr(importlib.import_module(f"benchmarks.sides.{module}"), name)
        baseline = _resident("VmRSS")
        side = kind(**settings)

    answer(build)
    for line in sys.stdin:
        request = json.loads(line)
        word = request.pop("do")
        if word == "stop":
            break
        answer(words[word], **request)


def _memory(side: Any, baseline: int) -> dict:
    """Most memory held while stepping: "peak" absolute, "net" beyond that of the bare imports.

    A side whose steps are processes of their own tells it itself.
    """
    if hasattr(side, "memory"):
        return side.memory()
    for _ in range(_STEPS_FOR_MEMORY):
        side.step()
    with contextlib.suppress(OSError):
        # Forgets the highest mark so far: building may have held more.
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    for _ in range(_STEPS_FOR_MEMORY):
        side.step()
    peak = _resident("VmHWM")
    return {"peak": peak, "net": peak - baseline}


def _resident(field: str) -> int:
    """Bytes of this process that /proc tells; the highest mark where there is no /proc."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else used * 1024
    line = next(line for line in status.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


class Worker:
    """The driver's end of a process."""

    def __init__(self, python: str, module: str, name: str, settings: dict, log: pathlib.Path):
        """Starts the process and waits until the side is built.

        Args:
          python: the interpreter of its environment.
          module, name, settings: see `serve`.
          log: file for what it prints.

        Raises:
          SideError: the side could not be built.
        """
        self._log = log
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        started = time.perf_counter()
        try:
            with open(log, "w") as printed:
                self._process = subprocess.Popen(
                    [python, "-m", "benchmarks.workers", module, name, json.dumps(settings)],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=printed,
                    text=True,
                )
        except OSError as error:
            raise SideError(f"start: {error}; `make bench` makes the environments") from error
        self._hear("start")
        self.seconds_to_start = time.perf_counter() - started

    def ask(self, word: str, **arguments: Any) -> Any:
        """Has the process do something, and returns what it answers.

        Raises:
          SideError: it could not.
        """
        # `_hear` says why, if the process has ended.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": word, **arguments}) + "\n")
            self._process.stdin.flush()
        return self._hear(word)

    def _hear(self, word: str) -> Any:
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise SideError(f"ended at '{word}' with status {status}; see {self._log}")
        told = json.loads(line)
        if "error" in told:
            raise SideError(f"{word}: {told['error']}; see {self._log}")
        return told["value"]

    def stop(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            try:
                self._process.communicate('{"do": "stop"}\n', timeout=20)
            except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
                self._process.kill()
        self._process.wait()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
