"""The command answers questions and mistakes before TensorFlow is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import patience

# Runs the command as its console script does, and tells what it loaded.
SCRIPT = """
import sys
from hmoe.cli.main import main
sys.argv[0] = "hmoe"
try:
    status = main()
except SystemExit as stop:
    status = stop.code
heavy = [name for name in ("tensorflow", "mesh_tensorflow", "t5", "seqio") if name in sys.modules]
print("status", status)
print("loaded", heavy)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=patience.HANG,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help(arguments):
    done = run(*arguments)
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert done.stdout.splitlines()[-2] in ("status 0", "status None")
    assert "usage" in done.stdout.lower()


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--no_such_flag=1"]])
def test_mistakes(arguments):
    done = run(*arguments)
    assert done.stdout.splitlines()[-1] == "loaded []"
    assert done.stdout.splitlines()[-2] not in ("status 0", "status None")
    assert arguments[-1].split("=")[0] in done.stderr
