"""Starts the processes of a run, does them harm, and waits for their ends.

Importing TensorFlow takes ten seconds a process, so that one process imports it and forks others.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hmoe.launcher.processes import free_ports
from tests import patience, signals
from tests.t5 import server

HARM = "HMOE_TESTS_HARM"

# Forks a child for each line, and says when one has ended.
NURSERY = """
import json, os, select, sys, time
from hmoe.cli import main as cli
import hmoe.t5.commands.commands

print(json.dumps({"ready": True}), flush=True)
source = sys.stdin.fileno()
waiting, alive = b"", set()
while True:
    if select.select([source], [], [], 0.05)[0]:
        read = os.read(source, 65536)
        if not read:
            break
        waiting += read
    while b"\\n" in waiting:
        line, waiting = waiting.split(b"\\n", 1)
        order = json.loads(line)
        child = os.fork()
        if not child:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in ((1, order["out"]), (2, order["error"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            sys.stdin = os.fdopen(0, closefd=False)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            os.environ.update(order["environ"])
            sys.argv = ["hmoe", *order["arguments"]]
            status = 99
            try:
                status = cli.main()
                sys.stdout.flush()
                sys.stderr.flush()
            except SystemExit as stop:
                status = stop.code
            finally:
                os._exit(status)
        alive.add(child)
        print(json.dumps({"started": child, "id": order["id"]}), flush=True)
    for child in list(alive):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            alive.remove(child)
            status = os.waitstatus_to_exitcode(status)
            print(json.dumps({"ended": child, "status": status, "at": time.monotonic()}), flush=True)
for child in alive:
    os.kill(child, 9)
"""

_counts = itertools.count()


class Nursery:
    """A process that has imported everything and forks others.

    Args:
      folder: for its log.
    """

    def __init__(self, folder: Path):
        self._log = (folder / "nursery").open("w")
        self._process: Any = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**server.environment(), "HMOE_LOCAL_PROCESSES": "4"},
            preexec_fn=signals.as_in_a_terminal,
        )
        self._changed = threading.Condition()
        self._pids: dict[int, int] = {}
        self.ended: dict[int, tuple[int, float]] = {}
        self._count = 0
        self._is_gone = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                if "started" in said:
                    self._pids[said["id"]] = said["started"]
                if "ended" in said:
                    self.ended[said["ended"]] = (said["status"], said["at"])
                self._changed.notify_all()
        with self._changed:
            self._is_gone = True
            self._changed.notify_all()

    def start(self, arguments: Sequence[str], output: Path, **environ: str) -> int:
        """Starts a command; returns its process's number in the system."""
        with self._changed:
            self._count += 1
            order = {
                "id": self._count,
                "arguments": list(arguments),
                "out": f"{output}.out",
                "error": f"{output}.err",
                "environ": environ,
            }
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            self._changed.wait_for(
                lambda: order["id"] in self._pids or self._is_gone, patience.HANG
            )
            assert order["id"] in self._pids, Path(self._log.name).read_text(encoding="utf-8")
            return self._pids[order["id"]]

    def wait(self, pids: Sequence[int], limit: float = patience.HANG) -> bool:
        """Waits until processes have ended; returns whether they have."""
        with self._changed:
            return self._changed.wait_for(lambda: all(p in self.ended for p in pids), limit)

    def close(self) -> None:
        """Ends all processes."""
        self._process.communicate(timeout=patience.HANG)
        self._log.close()


@dataclasses.dataclass
class Member:
    """A process of a crew.

    Attributes:
      number: its number in the run.
      pid: its number in the system.
      output: path of what it prints, without the endings.
    """

    number: int
    pid: int
    output: Path

    @property
    def out(self) -> str:
        return self.output.with_name(f"{self.output.name}.out").read_text(encoding="utf-8")

    @property
    def error(self) -> str:
        return self.output.with_name(f"{self.output.name}.err").read_text(encoding="utf-8")


class Crew:
    """The processes of one start of a run.

    Args:
      nursery: starts them.
      folder: for what they print.
      arguments: the command of all, but for the flags of processes.
      size: how many processes.
      addresses: their addresses; by default free ports of this machine.
      harms: what is done to processes, by their numbers, as `harm` reads it.
      more: more arguments of each, by its number.
      omitted: those that are not started.
    """

    def __init__(
        self,
        nursery: Nursery,
        folder: Path,
        arguments: Sequence[str],
        size: int = 4,
        addresses: Sequence[str] | None = None,
        harms: Mapping[int, str] = {},
        more: Mapping[int, Sequence[str]] = {},
        omitted: Sequence[int] = (),
    ):
        self._nursery = nursery
        self._folder = folder
        self._arguments = arguments
        self.addresses = addresses or [f"127.0.0.1:{port}" for port in free_ports(size)]
        self._harms = json.dumps({"what": harms})
        self._more = more
        self.members: dict[int, Member] = {}
        for number in range(size):
            if number not in omitted:
                self.members[number] = self.start(number)

    def start(self, number: int) -> Member:
        """Starts a process."""
        output = self._folder / f"{next(_counts)}_{number}"
        words = [
            *self._arguments,
            f"--workers={','.join(self.addresses)}",
            f"--worker_index={number}",
            *self._more.get(number, ()),
        ]
        pid = self._nursery.start(words, output, **{HARM: self._harms})
        return Member(number, pid, output)

    def name(self, number: int) -> str:
        """Returns what messages call a process."""
        return f"process {number} ({self.addresses[number]})"

    def send(self, number: int, sent: signal.Signals) -> float:
        """Sends a signal to a process; returns the time."""
        os.kill(self.members[number].pid, sent)
        return time.monotonic()

    def wait(self, but: Sequence[int] = (), limit: float = patience.HANG) -> dict[int, int]:
        """Waits for the ends of processes, but for some; returns their exit statuses."""
        pids = {m.number: m.pid for m in self.members.values() if m.number not in but}
        did = self._nursery.wait(list(pids.values()), limit)
        assert did, "\n".join(
            f"process {n} runs:\n{m.out}{m.error}"
            for n, m in self.members.items()
            if m.pid not in self._nursery.ended
        )
        return {number: self._nursery.ended[pid][0] for number, pid in pids.items()}

    def ended_at(self, number: int) -> float:
        """Returns when a process ended."""
        return self._nursery.ended[self.members[number].pid][1]

    def until(self, condition: Callable[[], bool], limit: float = patience.HANG) -> None:
        """Waits for something while all processes run."""
        end = time.monotonic() + limit
        while not condition():
            for member in self.members.values():
                assert member.pid not in self._nursery.ended, member.out + member.error
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.02)

    def until_said(self, text: str, number: int = 0) -> None:
        """Waits until a process has printed something."""
        self.until(lambda: text in self.members[number].out)

    def errors(self, number: int) -> list[str]:
        """Returns the lines of errors, but for warnings, that a process has printed."""
        lines = self.members[number].error.splitlines()
        return [line for line in lines if not line.startswith("Warning: ")]

    def kill(self) -> None:
        """Kills those that are left."""
        for member in self.members.values():
            if member.pid not in self._nursery.ended:
                os.kill(member.pid, signal.SIGKILL)
        self.wait()

    def said(self) -> str:
        """Returns all that processes have printed."""
        return "\n".join(f"process {n}:\n{m.out}{m.error}" for n, m in self.members.items())
