"""From the command `hmoe train` to its first step, in a process of its own each time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

# What the command says as it begins a part, and what the part before is called here.
_LINES = {
    "Building the model": "to the graph",
    "Preparing the first step": "graph",
    "First step done": "first run",
}


class Train:
    """One step of a job; a step of this side is the time until that one is done.

    Args:
      gin_files: of the job.
      bindings: more gin.
    """

    def __init__(self, gin_files, bindings=()):
        self._flags = [f"--gin_file={file}" for file in gin_files]
        self._flags += [f"--gin_param={binding}" for binding in bindings]
        self._most_memory = 0

    def step(self):
        with tempfile.TemporaryDirectory() as model_dir:
            command = [
                sys.executable,
                "-m",
                "hmoe.cli.main",
                "train",
                *self._flags,
                "--train_steps=1",
                f"--model_dir={model_dir}",
            ]
            started = last = time.perf_counter()
            seconds = {}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for line in process.stdout:
                now = time.perf_counter()
                for beginning, part in _LINES.items():
                    if line.startswith(beginning) and part not in seconds:
                        seconds[part], last = now - last, now
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = status
            if status or len(seconds) < len(_LINES):
                raise RuntimeError(
                    f"{' '.join(command)} ended with status {status} and told {list(seconds)}"
                )
        scale = 1 if sys.platform == "darwin" else 1024
        self._most_memory = max(self._most_memory, used.ru_maxrss * scale)
        return {"step": last - started, **seconds}

    def peak(self):
        return 0.0

    def memory(self):
        """Of the command; nothing is subtracted."""
        return {"peak": self._most_memory, "net": self._most_memory}

    def describe(self):
        return {
            "packages": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("mesh-tensorflow", "t5")},
            }
        }
