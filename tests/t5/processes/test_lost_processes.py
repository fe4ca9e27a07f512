"""Processes that are killed, stopped or fail: the others notice, name them, and leave no torn file."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.t5 import tiny
from tests.t5.commands.test_killed_runs import curves
from tests.t5.processes.crew import Crew

pytestmark = pytest.mark.slow

# Seconds within which all notice by default.
BOUND = 30.0
# How many random kills; the default keeps the test short.
NUM_RANDOM = int(os.environ.get("HMOE_KILLS", "1"))
Start = Callable[..., Crew]


def assert_lost(crew: Crew, number: int, since: float | None = None, bound: float = BOUND) -> None:
    """All others end with status 3 within a time, and name the one that was lost, and no other."""
    others = [n for n in range(4) if n != number]
    statuses = crew.wait(but=[number])
    assert statuses == dict.fromkeys(others, 3), crew.said()
    begun = crew.ended_at(number) if since is None else since
    for other in others:
        (line,) = [each for each in crew.errors(other) if each.startswith("hmoe: error")]
        assert line.startswith(f"hmoe: error: {crew.name(number)} "), line
    seconds = [round(crew.ended_at(other) - begun, 1) for other in others]
    print(f"process {number} was lost; the others ended after {seconds} s")
    assert max(seconds) < bound


def assert_same(folder: Path, whole: Path) -> None:
    assert curves(folder) == curves(whole)
    expected, found = tiny.weights(whole), tiny.weights(folder)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    names = [{path.name for path in each.glob("model.ckpt-*")} for each in (folder, whole)]
    assert names[0] == names[1]


def newest(folder: Path) -> int:
    """The step of the newest checkpoint that its manifest calls whole."""
    steps = [int(path.name.split("-")[1].split(".")[0]) for path in folder.glob("*.manifest.json")]
    return max(steps, default=0)


def test_killed_again_and_again(started: Start, whole: Path, tmp_path: Path) -> None:
    """In saves and steps, the first and others; at the end stand the bits of a run that never failed."""
    draws = random.Random(5)
    harms = [(0, "save 1.002"), (3, "save 2.01"), (2, "step 3.05"), (0, "step 3.02")]
    for _ in range(NUM_RANDOM):
        kind, moment = draws.choice(["save", "step"]), draws.randint(1, 2) + draws.uniform(0, 0.2)
        harms.append((draws.randrange(4), f"{kind} {moment:.4f}"))
    reached = []
    for number, what in harms:
        crew = started(harms={number: what})
        if crew.wait([n for n in range(4) if n != number]) == {number: 0}:
            break
        assert crew.wait()[number] == -9, crew.said()
        assert_lost(crew, number)
        reached.append(newest(tmp_path / "m"))
    print(f"killed {len(reached)} times, with checkpoints of steps {reached}")
    assert len(reached) >= 4
    assert started().wait() == dict.fromkeys(range(4), 0)
    assert_same(tmp_path / "m", whole)
    assert not list((tmp_path / "m").glob(".hmoe.lock*"))


@pytest.mark.parametrize("number", [0, 2])
def test_stopped(started: Start, number: int) -> None:
    crew = started("--lost_after=10")
    crew.until_said("Saved")
    since = crew.send(number, signal.SIGSTOP)
    # Of a busy machine, twice the time.
    assert_lost(crew, number, since, bound=20)
    # Where the servers give up before the watch does, a process says what it knows then.
    sentences = (
        f"hmoe: error: {crew.name(number)} did not answer for 6 s (--lost_after): stopped, "
        "hanging, or out of reach",
        f"hmoe: error: {crew.name(number)} ended or is out of reach",
    )
    for other in {0, 1, 2, 3} - {number}:
        (line,) = crew.errors(other)
        assert line in sentences


def test_killed_before_the_first_step(started: Start, tmp_path: Path) -> None:
    crew = started()
    crew.until_said("Building the model")
    since = crew.send(1, signal.SIGKILL)
    assert_lost(crew, 1, since, bound=BOUND + 30)  # and the others build their graphs first
    assert not list((tmp_path / "m").glob("model.*"))


def test_one_is_told_to_stop(started: Start, whole: Path, tmp_path: Path) -> None:
    crew = started()
    crew.until_said("Saved")
    crew.send(2, signal.SIGTERM)
    assert crew.wait() == dict.fromkeys(range(4), 143), crew.said()
    for number in range(4):
        assert crew.errors(number) == ["Ended by SIGTERM."]
    step = newest(tmp_path / "m")
    lines = crew.members[0].out.splitlines()
    stopped = f"Stopped; the last checkpoint is {tmp_path}/m/model.ckpt-{step}. To resume, run the "
    assert f"Saved {tmp_path}/m/model.ckpt-{step}" in lines
    assert lines[-1] == f"{stopped}same command again"
    for number in (1, 2, 3):
        log = (tmp_path / "m" / f"process_{number}.log").read_text()
        assert f"\nhmoe: Saved {tmp_path}/m/model.ckpt-{step}\n" in log
        assert f"\nhmoe: {stopped}" in log
    again = started()
    assert again.wait() == dict.fromkeys(range(4), 0), again.said()
    assert f"Resuming from {tmp_path}/m/model.ckpt-{step}" in again.members[0].out
    assert curves(tmp_path / "m")[-1] == curves(whole)[-1]
    found, expected = tiny.weights(tmp_path / "m"), tiny.weights(whole)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_an_error_in_the_data_of_one(started: Start, tmp_path: Path) -> None:
    crew = started(harms={1: "data 4"})
    assert crew.wait()[1] == 1, crew.said()
    assert "ValueError: line 7 of the data is spoilt" in crew.members[1].error
    assert_lost(crew, 1)
    assert newest(tmp_path / "m") == 2


def test_a_full_disk_of_one(started: Start, tmp_path: Path) -> None:
    crew = started(harms={3: "full 2"})
    assert crew.wait()[3] == 1, crew.said()
    (line,) = crew.errors(3)
    assert line.startswith("hmoe: error: no space left to write part (")
    assert_lost(crew, 3)
    assert newest(tmp_path / "m") == 2
    again = started("--gin_param=train_steps = 4", "--force")
    assert again.wait() == dict.fromkeys(range(4), 0), again.said()
    assert newest(tmp_path / "m") == 4
    assert not list((tmp_path / "m").glob("*_temp"))


def test_an_error_that_all_have(started: Start, tmp_path: Path) -> None:
    crew = started("--gin_param=hmoe.Session.largest_weight = 0.001")
    assert crew.wait() == dict.fromkeys(range(4), 1), crew.said()
    lines = [crew.errors(number) for number in range(4)]
    assert lines[0][0].startswith("hmoe: error: training diverged: at step 2, ")
    assert lines == [lines[0]] * 4
    assert not list((tmp_path / "m").glob("model.*"))


@pytest.mark.parametrize("late", [0, 1])
def test_data_that_ends_later_for_one(
    started: Start, whole: Path, tmp_path: Path, late: int
) -> None:
    """A process that has come to its end must not remove what another one waits for."""
    (tmp_path / "lines").write_text("en month 1\n" * 11, encoding="utf-8")
    files = (f"--input_file={tmp_path}/lines", f"--output_file={tmp_path}/answers")
    words = (f"--model_dir={whole}", "--module_import=tests.t5.processes.harm", *files)
    crew = started(*words, command=("predict",), harms={late: "end 3"})
    assert crew.wait() == dict.fromkeys(range(4), 0), crew.said()
    assert (tmp_path / "answers").read_text(encoding="utf-8").count("\n") == 11


@pytest.mark.parametrize(("command", "said"), [("eval", "Evaluating"), ("predict", "Preparing")])
def test_killed_while_it_uses_a_model(
    started: Start, whole: Path, tmp_path: Path, command: str, said: str
) -> None:
    before = {path.name for path in whole.iterdir()}
    (tmp_path / "lines").write_text("en month 1\n" * 40, encoding="utf-8")
    more = {
        "eval": (),
        "predict": (f"--input_file={tmp_path}/lines", f"--output_file={tmp_path}/answers"),
    }[command]
    words = (f"--model_dir={whole}", "--module_import=tests.t5.processes.harm", *more)
    crew = started(*words, command=(command,))
    crew.until(lambda: said in crew.members[0].out + crew.members[0].error)
    time.sleep(2)
    crew.send(3, signal.SIGKILL)
    crew.wait()
    assert_lost(crew, 3, bound=BOUND + 30)
    assert not (tmp_path / "answers").exists()
    new = {path.name for path in whole.iterdir()} - before
    assert not {name for name in new if not name.startswith("process_")}
    again = started(*words, command=(command,))
    assert again.wait() == dict.fromkeys(range(4), 0), again.said()
