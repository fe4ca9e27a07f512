"""The GPUs that processes on this machine may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Where NVIDIA's driver lists its GPUs, one folder for each.
_DRIVER = "/proc/driver/nvidia/gpus"
_SECONDS = 20


def visible(environ: Mapping[str, str], driver: str = _DRIVER) -> list[str]:
    """Returns the GPUs that CUDA_VISIBLE_DEVICES leaves to a process, as that variable names them.

    Args:
      environ: the environment.
      driver: the folder in which the driver lists GPUs.

    Returns:
      Numbers or UUIDs; [] for a machine without GPUs, or whose GPUs are hidden.
    """
    given = environ.get(VISIBLE)
    if given is None:
        return [str(number) for number in range(_count(environ, driver))]
    found = []
    for name in map(str.strip, given.split(",")):
        if name in ("", "-1"):  # CUDA ignores what comes after a name that is none
            break
        found.append(name)
    return found if found and _count(environ, driver) else []


def _count(environ: Mapping[str, str], driver: str) -> int:
    """Counts the GPUs of this machine by nvidia-smi, or else by the driver's folder."""
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if program:
        try:
            listed = subprocess.run(
                [program, "-L"], capture_output=True, text=True, timeout=_SECONDS, check=True
            )
            return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
        except (OSError, subprocess.SubprocessError):
            pass
    try:
        return len(os.listdir(driver))
    except OSError:
        return 0
