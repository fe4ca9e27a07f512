"""Runs `hmoe` in processes that need not import TensorFlow anew, which takes ten seconds each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests import patience, signals

ROOT = str(Path(__file__).parents[2])

# Imports what every command needs, and forks a child for each. Nothing has run by then, so a child
# begins as a command in a process of its own does: its configuration, its tasks, its files.
SERVER = """
import json, os, sys
from hmoe.cli import main as cli
import hmoe.t5.commands.commands

def start(arguments, files):
    child = os.fork()
    if not child:
        os.setsid()  # so that a terminal among its files is the one whose Ctrl-C it gets
        for number, (path, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
            if path is None:
                os.close(number)
            else:
                opened = os.open(path, flags)
                os.dup2(opened, number)
                os.close(opened)
        sys.stdin = os.fdopen(0, closefd=False) if files[0] else None
        sys.stdout = os.fdopen(1, "w", closefd=False) if files[1] else None
        sys.stderr = os.fdopen(2, "w", closefd=False) if files[2] else None
        sys.argv = ["hmoe", *arguments]
        try:
            status = cli.main()
            sys.stdout.flush()
            sys.stderr.flush()
        except SystemExit as stop:
            status = stop.code
        os._exit(status)
    return child

for line in sys.stdin:
    children = [start(*command) for command in json.loads(line)]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(ends), flush=True)
"""


def once(*arguments: str) -> subprocess.CompletedProcess:
    """The command in a process that begins with nothing."""
    return subprocess.run(
        [sys.executable, "-m", "hmoe.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=patience.HANG,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT}


class Server:
    """Runs one command after another; call it with the words of one, then `close`."""

    def __init__(self, folder: Path, **variables: str):
        """Starts it.

        Args:
          folder: for the standard files of the commands.
          **variables: of its environment.
        """
        self._files = [folder / name for name in ("stdin", "stdout", "stderr")]
        self._log = (folder / "server").open("w")
        self._process: Any = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**environment(), **variables},
            preexec_fn=signals.as_in_a_terminal,
        )

    def __call__(self, *arguments: str, stdin: str | bytes = "") -> subprocess.CompletedProcess:
        for file, text in zip(self._files, (stdin, "", "")):
            file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        status = self.run_on([str(file) for file in self._files], *arguments)
        out, error = (file.read_text(encoding="utf-8") for file in self._files[1:])
        return subprocess.CompletedProcess(arguments, status, out, error)

    def run_on(self, files: Sequence[str | None], *arguments: str) -> int:
        """Runs a command on standard files of its own, of which None is closed.

        Args:
          files: paths for standard input, output and errors.
          *arguments: the words of the command.

        Returns:
          The exit status.
        """
        return self.run_together([(arguments, files)])[0]

    def run_together(
        self, commands: Sequence[tuple[Sequence[str], Sequence[str | None]]]
    ) -> list[int]:
        """Runs commands at the same time.

        Args:
          commands: the words and the standard files of each.

        Returns:
          The exit statuses.
        """
        self._process.stdin.write(json.dumps(commands) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server ended: " + Path(self._log.name).read_text(encoding="utf-8")
        return json.loads(answer)

    def close(self) -> None:
        """Lets it end, and kills a command that it still runs where that takes too long."""
        try:
            self._process.communicate(timeout=patience.HANG)
        except subprocess.TimeoutExpired:
            running = psutil.Process(self._process.pid)
            for each in [*running.children(recursive=True), running]:
                each.kill()
            raise
        finally:
            self._log.close()
