"""Runs `hmoe` in processes that need not import TensorFlow anew, which takes ten seconds each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[2])

# Imports what every command needs, and forks a child for each. Nothing has run by then, so a child
# begins as a command in a process of its own does: its configuration, its tasks, its files.
SERVER = """
import json, os, sys
from hmoe.cli import main as cli
import hmoe.t5.commands.commands

for line in sys.stdin:
    arguments, files = json.loads(line)
    child = os.fork()
    if not child:
        for number, (path, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
            os.dup2(os.open(path, flags), number)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.argv = ["hmoe", *arguments]
        status = cli.main()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def once(*arguments: str) -> subprocess.CompletedProcess:
    """The command in a process that begins with nothing."""
    return subprocess.run(
        [sys.executable, "-m", "hmoe.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT}


class Server:
    """Runs one command after another; call it with the words of one, then `close`."""

    def __init__(self, folder: Path):
        """Starts it.

        Args:
          folder: for the standard files of the commands.
        """
        self._files = [folder / name for name in ("stdin", "stdout", "stderr")]
        self._log = (folder / "server").open("w")
        self._process: Any = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(),
        )

    def __call__(self, *arguments: str, stdin: str | bytes = "") -> subprocess.CompletedProcess:
        for file, text in zip(self._files, (stdin, "", "")):
            file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        request = [arguments, [str(file) for file in self._files]]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server ended: " + Path(self._log.name).read_text(encoding="utf-8")
        out, error = (file.read_text(encoding="utf-8") for file in self._files[1:])
        return subprocess.CompletedProcess(arguments, int(answer), out, error)

    def close(self) -> None:
        self._process.communicate(timeout=60)
        self._log.close()
