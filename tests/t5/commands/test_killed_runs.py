"""A run that is killed again and again ends with the bits of one that was never interrupted."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.t5 import killed, server, tiny
from tests.t5.commands.test_commands import PARAMETERS

pytestmark = pytest.mark.slow

TIMES = ("time", "steps_per_second", "tokens_per_second")
# Saves fall between lines of the curves, and lines between saves.
RUN = (
    "train",
    "--gin_file=runs/tiny.gin",
    *[f"--gin_param={parameter}" for parameter in PARAMETERS],
    "--gin_param=train_steps = 40",
    "--gin_param=save_every_steps = 2",
    "--gin_param=hmoe.Session.log_every_steps = 5",
    "--gin_param=dropout_rate = 0.1",
    "--module_import=tests.t5.killed",
)
# The default of `HMOE_KILLS` keeps the test short.
NUM_RANDOM = int(os.environ.get("HMOE_KILLS", "5"))


class KilledRun:
    """Starts a run that is killed; one folder for all starts."""

    def __init__(self, hmoe: server.Server, when: Path, folder: Path):
        self._hmoe, self._when, self.folder = hmoe, when, folder

    def start(self, when: str) -> int:
        """Starts or resumes the run, and returns its exit status."""
        self._when.write_text(when, encoding="utf-8")
        result = self._hmoe(*RUN, f"--model_dir={self.folder}")
        assert result.returncode in (0, -9), result.stdout + result.stderr
        return result.returncode

    def step(self) -> int:
        """Returns the step of the newest checkpoint."""
        steps = [int(path.stem.split("-")[1]) for path in self.folder.glob("model.ckpt-*.index")]
        return max(steps, default=0)


@pytest.fixture(scope="module")
def when(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("when") / "when"
    path.touch()
    os.environ[killed.KILLED] = str(path)
    yield path
    del os.environ[killed.KILLED]


@pytest.fixture(scope="module")
def hmoe(when: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[server.Server]:
    running = server.Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def whole(hmoe: server.Server, when: Path, tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """The oracle: a run in one go."""
    run = KilledRun(hmoe, when, tmp_path_factory.mktemp("whole"))
    assert run.start("") == 0
    return run


def curves(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in tiny.curves(folder)]


def assert_same(run: KilledRun, whole: KilledRun) -> None:
    assert curves(run.folder) == curves(whole.folder)
    expected, found = tiny.weights(whole.folder), tiny.weights(run.folder)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    names = [{path.name for path in each.folder.glob("model.ckpt-*")} for each in (run, whole)]
    assert names[0] == names[1]


def test_killed_at_every_point_of_a_save(
    hmoe: server.Server, when: Path, whole: KilledRun, tmp_path: Path
) -> None:
    run = KilledRun(hmoe, when, tmp_path)
    for passes, point in enumerate(killed.POINTS, 1):
        if point == "between config.gin and run.json":
            passes = 0
        assert run.start(f"{point} {passes}") == -9, point
    assert run.step() > 0
    assert run.start("") == 0
    assert_same(run, whole)


def test_killed_at_random_moments(
    hmoe: server.Server, when: Path, whole: KilledRun, tmp_path: Path
) -> None:
    """One in five while the graph is built, the others some steps further, in a step or a save."""
    run, draws = KilledRun(hmoe, when, tmp_path), random.Random(7)
    reached = []
    for number in range(NUM_RANDOM):
        steps, seconds = draws.randint(1, 4), draws.uniform(0.0, 0.1)
        moment = "now 0.5" if number % 5 == 2 else f"step {steps + seconds:.4f}"
        if run.start(moment) == 0:
            break
        reached.append(run.step())
    print(f"killed {len(reached)} times, with checkpoints of steps {reached}")
    assert len(reached) > NUM_RANDOM / 2
    assert run.start("") == 0
    assert_same(run, whole)
