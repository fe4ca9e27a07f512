"""The default job in several processes, as `hmoe launch` trains it: seconds until and of a step."""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

_FIRST = "First step done"
# Steps after the first whose time is not counted, and those whose time is.
_WARM_UP, _STEPS = 5, 20


def trained(number: int, mesh: str) -> dict[str, Any]:
    """Trains the model of the default job for some steps of 32 sequences.

    Args:
      number: number of processes; one is started without `hmoe launch`.
      mesh: the shape of their mesh, as in gin.

    Raises:
      RuntimeError: the command failed.
    """
    train = [
        "train",
        "--gin_file=runs/default.gin",
        f"--gin_param=utils.run.mesh_shape = {mesh!r}",
        f"--gin_param=utils.run.mesh_devices = {[''] * number!r}",
        "--gin_param=hmoe.Session.log_every_steps = 1",
        "--gin_param=batch_size = 32",
        f"--train_steps={1 + _WARM_UP + _STEPS}",
    ]
    if number > 1:
        train = ["launch", "-n", str(number), "--", *train]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hmoe.cli.main", *train, f"--model_dir={folder}/model"]
        began, to_first, said = time.perf_counter(), None, []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if line.startswith(_FIRST) and to_first is None:
                    to_first = time.perf_counter() - began
        if process.returncode or to_first is None:
            raise RuntimeError(
                f"{' '.join(command)} ended with status {process.returncode}: {''.join(said[-9:])}"
            )
        lines = (pathlib.Path(folder) / "model/metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["steps_per_second"] for line in lines[1 + _WARM_UP :]]
    return {
        "processes": number,
        "mesh": mesh,
        "to the first step": to_first,
        "seconds": statistics.median(1 / rate for rate in rates),
    }
