"""Signals at any moment of a real training: while modules are imported, while it is built, in steps."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import signals
from tests.docs.pages import ROOT

pytestmark = pytest.mark.slow

# Seconds until the model is built on a machine that does nothing else.
START = 9.0


def started(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "hmoe.cli.main", "train", "--gin_file=runs/tiny.gin"]
        + ["--gin_param=train_steps = 100_000", f"--model_dir={folder}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=signals.as_in_a_terminal,
    )


def wait_for(process: subprocess.Popen, text: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} was not printed: {process.communicate()}")


@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_while_it_starts(tmp_path: Path, seed: int) -> None:
    process = started(tmp_path / "m")
    wait_for(process, "Loading TensorFlow")
    time.sleep(random.Random(seed).uniform(0, START))
    process.send_signal(signal.SIGINT)
    begun = time.time()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "Interrupted.\n")
    assert time.time() - begun < 5
    assert list(tmp_path.iterdir()) == []


def test_a_signal_while_the_model_is_built_ends_at_once(tmp_path: Path) -> None:
    process = started(tmp_path / "m")
    wait_for(process, "Building the model ...")
    process.send_signal(signal.SIGTERM)
    begun = time.time()
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (143, "", "Ended by SIGTERM.\n")
    assert time.time() - begun < 5


def test_a_terminal_that_closes_lets_training_save(tmp_path: Path) -> None:
    """SIGHUP comes, and nobody reads what is printed any more."""
    process = started(tmp_path / "m")
    wait_for(process, " | loss ")
    assert process.stdout
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
    assert process.stderr
    assert process.stderr.read() == "Ended by SIGHUP.\n"
    newest = (tmp_path / "m" / "checkpoint").read_text().splitlines()[0]
    assert "model.ckpt-" in newest
    assert "Traceback" not in (tmp_path / "m" / "log.txt").read_text()
