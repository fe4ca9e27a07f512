"""Faults of a run that `hmoe launch` has started: one message, the status of the cause, restarts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.t5 import server
from tests.t5.processes.conftest import TRAIN
from tests.t5.processes.crew import HARM
from tests.t5.processes.test_lost_processes import assert_same

pytestmark = pytest.mark.slow


def launched(
    folder: Path, harm: dict[int, str], *more: str, flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    given = {"what": harm, "once": f"{folder}/harmed"}
    words = ["launch", "-n", "4", *flags, "--", *TRAIN, f"--model_dir={folder}/m", *more]
    result = subprocess.run(
        [sys.executable, "-m", "hmoe.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**server.environment(), HARM: json.dumps(given)},
        stdin=subprocess.DEVNULL,
    )
    assert not processes_in(folder), "a process is left behind"
    return result


def processes_in(folder: Path) -> list[str]:
    """The command lines of processes that work in a folder."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{number}/cmdline").read_text()
        except OSError:
            continue
        if f"--model_dir={folder}/m" in words:
            found.append(words)
    return found


def test_restarts_end_with_the_bits_of_a_run_that_never_failed(whole: Path, tmp_path: Path) -> None:
    result = launched(tmp_path, {0: "save 3.01"}, flags=("--restarts=1",))
    assert result.returncode == 0, result.stdout + result.stderr
    assert [line for line in result.stderr.splitlines() if not line.startswith("Warning")] == [
        "hmoe launch: process 0 was killed by SIGKILL, by hand or because memory ran out; its log "
        f"is {tmp_path}/m/log.txt"
    ]
    lines = result.stdout.splitlines()
    again = lines.index("Starting all processes again (0 restarts left after this) ...")
    assert f"Saved {tmp_path}/m/model.ckpt-4" in lines[:again]
    assert_same(tmp_path / "m", whole)


def test_the_cause_is_reported(tmp_path: Path) -> None:
    result = launched(tmp_path, {2: "data 3"})
    assert result.returncode == 1, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Warning")]
    assert lines[-1] == (
        f"hmoe launch: process 2 failed (exit status 1); its log is {tmp_path}/m/process_2.log"
    )
    assert any("line 7 of the data is spoilt" in line for line in lines)
    lost = [line for line in lines if line.startswith("hmoe: error")]
    assert len(lost) == 1  # process 0 says it as it happens
    assert lost[0].startswith("hmoe: error: process 2 (127.0.0.1:")


def test_an_error_that_all_have_is_told_once(tmp_path: Path) -> None:
    result = launched(tmp_path, {}, "--gin_param=hmoe.Session.largest_weight = 0.001")
    assert result.returncode == 1, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Warning")]
    assert lines[0].startswith("hmoe: error: training diverged: at step 2, ")
    assert lines[1:] == [
        f"hmoe launch: process 0 failed (exit status 1); its log is {tmp_path}/m/log.txt"
    ]
