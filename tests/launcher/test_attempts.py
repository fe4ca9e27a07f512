"""The launcher as a process, with stand-ins for `hmoe`: it knows nothing of TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import patience, signals
from tests.docs.pages import ROOT
from tests.launcher import stand_in

# Processes whose actions are not named are done after a moment.
Actions = dict[int, Sequence[str]]


@pytest.fixture(autouse=True)
def _none_is_left(tmp_path: Path) -> Iterator[None]:
    """Kills what a launcher that fails a test has left."""
    yield
    for pid in running(tmp_path):
        os.kill(pid, signal.SIGKILL)


def started(folder: Path, n: int, actions: Actions, **given: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.launcher.launcher"]
        + [json.dumps({"n": n, "folder": str(folder / "m"), **given})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "STAND_IN": json.dumps(actions),
            "TF_CONFIG": "of another run",
        },
        preexec_fn=signals.as_in_a_terminal,
    )


def ended(folder: Path, n: int, actions: Actions, **given: object) -> tuple[int, str, str]:
    process = started(folder, n, actions, **given)
    out, error = process.communicate(timeout=patience.HANG)
    assert running(folder) == []
    return process.returncode, out, error


def starts(folder: Path, number: int) -> list[tuple[list[str], dict[str, str]]]:
    """Returns words and environment of each start of a process."""
    path = folder / "m" / f"starts_{number}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pids(folder: Path) -> list[int]:
    return [int(each.read_text()) for each in (folder / "m").glob("[0-9]*_[0-9]*")]


def running(folder: Path) -> list[int]:
    return [pid for pid in pids(folder) if stand_in.state(pid) not in ("", "Z")]


def wait_until(condition, seconds: float = patience.HANG) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_for_work(process: subprocess.Popen) -> None:
    """Waits until process 0 prints that all are there."""
    assert process.stdout
    assert process.stdout.readline() == "line of 0\n"


def log(folder: Path, number: int) -> str:
    return f"its log is {folder}/m/process_{number}.log"


def test_all_succeed_and_the_first_prints(tmp_path: Path) -> None:
    assert ended(tmp_path, 3, {}, gpus=["4", "GPU-7", "6"]) == (0, "line of 0\n", "")
    words, environs = zip(*[starts(tmp_path, number)[0] for number in range(3)])
    [addresses] = {each[1] for each in words}
    ports = [each.split(":") for each in addresses.removeprefix("--workers=").split(",")]
    assert [host for host, _ in ports] == ["127.0.0.1"] * 3
    assert len({port for _, port in ports}) == 3
    for number in range(3):
        assert words[number] == [
            "train", addresses, f"--worker_index={number}", f"--model_dir={tmp_path}/m"
        ]  # fmt: skip
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environs] == ["4", "GPU-7", "6"]
    assert {each["HMOE_LOCAL_PROCESSES"] for each in environs} == {"3"}
    assert not any("TF_CONFIG" in each for each in environs)


@pytest.mark.parametrize(
    ("number", "action", "status", "how"),
    [
        pytest.param(2, "exit 1", 1, "failed (exit status 1)", id="fails"),
        pytest.param(0, "exit 1", 1, "failed (exit status 1)", id="first_fails"),
        pytest.param(
            1, "kill", 137, "was killed by SIGKILL, by hand or because memory ran out", id="killed"
        ),
    ],
)
def test_one_ends_and_the_others_notice(
    tmp_path: Path, number: int, action: str, status: int, how: str
) -> None:
    actions = dict.fromkeys(range(4), ["work"]) | {number: [action]}
    ended_with, out, error = ended(tmp_path, 4, actions)
    assert (ended_with, out) == (status, "line of 0\n")
    lines = error.splitlines()
    has_log = log(tmp_path, number) if number else "it had begun no log"
    assert lines[-1] == f"hmoe launch: process {number} {how}; {has_log}"
    own = {0: ["error of 0"], 1: ["process 1: line of 1"]}.get(
        number, ["process 2: line of 2", "process 2: error of 2"]
    )
    # They had time to end by themselves. The first prints to the user that it lost another one.
    assert not list((tmp_path / "m").glob("stopped_*"))
    assert [line for line in lines[:-1] if line != f"process {number} was lost"] == own


def test_bad_input_that_all_find_is_shown_once(tmp_path: Path) -> None:
    actions = dict.fromkeys(range(3), ["exit 2"])
    assert ended(tmp_path, 3, actions, restarts=2) == (2, "line of 0\n", "error of 0\n")
    assert len(starts(tmp_path, 1)) == 1


def test_bad_input_that_one_finds(tmp_path: Path) -> None:
    actions = {0: ["work"], 1: ["work"], 2: ["exit 2"]}
    status, _, error = ended(tmp_path, 3, actions)
    assert status == 2
    assert error == (
        "process 2 was lost\nprocess 2: line of 2\nprocess 2: error of 2\n"
    )  # the first line is process 0's


def test_a_stopped_process_is_killed_when_the_others_have_lost_it(tmp_path: Path) -> None:
    actions = {0: ["work"], 1: ["work"], 2: ["stop"]}
    begun = time.monotonic()
    status, _, error = ended(tmp_path, 3, actions, notice=2, end=1)
    assert time.monotonic() - begun > 3
    assert status == 3
    assert error.splitlines() == [
        "process 2 was lost",
        "hmoe launch: process 2 was lost by the others and did not end by itself, so it was ended; "
        + log(tmp_path, 2),
    ]


def test_a_process_that_notices_nothing_is_ended(tmp_path: Path) -> None:
    actions = {0: ["work"], 1: ["exit 1"], 2: ["deaf"]}
    status, _, error = ended(tmp_path, 3, actions, notice=1, end=1)
    assert status == 1
    assert error.splitlines()[-1] == (
        f"hmoe launch: process 1 failed (exit status 1); {log(tmp_path, 1)}"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_all_save(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, 3, dict.fromkeys(range(3), ["work"]), restarts=2)
    wait_for_work(process)
    process.send_signal(number)
    _, error = process.communicate(timeout=patience.HANG)
    assert process.returncode == 128 + number
    last = {signal.SIGINT: "Interrupted.\n", signal.SIGHUP: "Ended by SIGHUP.\n"}
    assert error == "Ended by SIGTERM.\n" + last.get(number, "")  # the first line is process 0's
    assert [(tmp_path / "m" / f"stopped_{each}").exists() for each in range(3)] == [True] * 3
    assert running(tmp_path) == []
    assert len(starts(tmp_path, 0)) == 1


def test_a_second_signal_kills(tmp_path: Path) -> None:
    process = started(tmp_path, 2, {0: ["deaf"], 1: ["deaf"]})
    wait_for_work(process)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=patience.HANG)
    assert (process.returncode, error) == (130, "Interrupted.\n")
    assert running(tmp_path) == []


def test_one_process_that_is_told_to_stop_is_no_failure(tmp_path: Path) -> None:
    """All save and stop, as hmoe does, and as long as that takes; none is started again."""
    process = started(tmp_path, 2, {0: ["work"], 1: ["deaf"]}, restarts=1, notice=0.2, end=0.2)
    wait_for_work(process)
    os.kill(starts_pid(tmp_path, 0), signal.SIGTERM)
    wait_until(lambda: (tmp_path / "m" / "stopped_0").exists())
    time.sleep(1)
    assert len(running(tmp_path)) == 1  # it may still save
    os.kill(starts_pid(tmp_path, 1), signal.SIGKILL)
    _, error = process.communicate(timeout=patience.HANG)
    assert process.returncode == 143
    assert error.splitlines()[-1] == (
        "hmoe launch: process 0 was stopped by SIGTERM; it had begun no log"
    )


def starts_pid(folder: Path, number: int) -> int:
    [path] = (folder / "m").glob(f"[0-9]*_{number}")
    return int(path.read_text())


def test_none_is_left_when_the_launcher_is_killed(tmp_path: Path) -> None:
    process = started(tmp_path, 3, dict.fromkeys(range(3), ["deaf"]))
    wait_for_work(process)
    assert len(running(tmp_path)) == 3
    process.kill()
    process.communicate(timeout=patience.HANG)
    wait_until(lambda: running(tmp_path) == [], seconds=5)


def test_restarts(tmp_path: Path) -> None:
    actions = {0: ["work", "work", "done"], 1: ["kill", "exit 1", "done"]}
    status, out, error = ended(tmp_path, 2, actions, restarts=3)
    assert status == 0, error
    assert out.splitlines() == [
        "line of 0",
        "Starting all processes again (2 restarts left after this) ...",
        "line of 0",
        "Starting all processes again (1 restart left after this) ...",
        "line of 0",
    ]
    ports = [words[1] for words, _ in starts(tmp_path, 0)]
    assert len(set(ports)) == 3


def test_restarts_come_to_an_end(tmp_path: Path) -> None:
    status, out, _ = ended(tmp_path, 2, {0: ["work"], 1: ["exit 1"]}, restarts=1)
    assert status == 1
    assert out.count("line of 0") == 2


def test_a_run_that_began_anew_is_resumed_once_it_has_saved(tmp_path: Path) -> None:
    """Before, the old run would be taken up in its place."""
    (tmp_path / "m").mkdir()
    for name in ("model.ckpt-5.index", "model.ckpt-5.data-00000-of-00001"):
        (tmp_path / "m" / name).write_text("old")
    actions = {0: ["work", "work", "work", "done"], 1: ["kill", "save and kill", "kill", "done"]}
    status, _, error = ended(tmp_path, 2, actions, restarts=3, words=["--overwrite"])
    assert status == 0, error
    ends = [words[-1] for words, _ in starts(tmp_path, 0)]
    assert ends == ["--overwrite", "--overwrite", "--nooverwrite", "--nooverwrite"]


# Makes the folder of the run, as hmoe does, and fails.
MAKES_FOLDER = """
import os, sys
[folder] = [word[12:] for word in sys.argv if word.startswith("--model_dir=")]
os.makedirs(folder, exist_ok=True)
if "--leave" in sys.argv:
    open(f"{folder}/file", "w").close()
sys.exit(1)
"""


@pytest.mark.parametrize("leaves", [False, True])
def test_a_folder_stays_only_if_something_is_in_it(tmp_path: Path, leaves: bool) -> None:
    status, _, _ = ended(
        tmp_path / "a", 2, {}, program=["-c", MAKES_FOLDER], words=["--leave"] * leaves
    )
    assert status == 1
    assert (tmp_path / "a").exists() == leaves


def test_a_pause_before_another_start_and_a_stop_in_it(tmp_path: Path) -> None:
    actions = {0: ["work"], 1: ["exit 1", "done"]}
    process = started(tmp_path, 2, actions, restarts=1, pause=60)
    wait_for_work(process)
    assert process.stdout
    assert process.stdout.readline() == (
        "Starting all processes again (0 restarts left after this) ...\n"
    )
    time.sleep(1)
    assert len(starts(tmp_path, 0)) == 1
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=patience.HANG)
    assert process.returncode == 143
    assert error.splitlines()[-1] == "Ended by SIGTERM."
    assert len(starts(tmp_path, 0)) == 1
