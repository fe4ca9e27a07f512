"""The tiny job by four processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.t5.processes.crew import Crew, Nursery

PARAMETERS = (
    "d_model = 16",
    "d_ff = 24",
    "num_blocks = 1",
    "num_heads = 2",
    "d_kv = 8",
    "group_size = 16",
    "num_outer_experts = 2",
    "num_inner_experts = 2",
    "batch_size = 8",
    "utils.run.sequence_length = {'inputs': 16, 'targets': 16}",
    "hmoe.Session.log_every_steps = 3",
    "dropout_rate = 0.1",
    "train_steps = 16",
    "save_every_steps = 2",
)
TRAIN = (
    "train",
    "--gin_file=runs/tiny.gin",
    "--gin_file=layouts/cpu_2x2.gin",
    *[f"--gin_param={parameter}" for parameter in PARAMETERS],
    "--module_import=tests.t5.processes.harm",
)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    running = Nursery(tmp_path_factory.mktemp("nursery"))
    yield running
    running.close()


@pytest.fixture
def started(nursery: Nursery, tmp_path: Path) -> Iterator[Callable[..., Crew]]:
    """Starts a training in `tmp_path / "m"`, or the command that it is given."""
    crews: list[Crew] = []
    (tmp_path / "said").mkdir()

    def start(*more: str, command: tuple[str, ...] = TRAIN, **how: Any) -> Crew:
        words = (*command, f"--model_dir={tmp_path}/m", "--start_within=120", *more)
        crews.append(Crew(nursery, tmp_path / "said", words, **how))
        return crews[-1]

    yield start
    for crew in crews:
        crew.kill()


@pytest.fixture(scope="session")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never failed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "said").mkdir()
    crew = Crew(nursery, folder / "said", (*TRAIN, f"--model_dir={folder}/m"))
    assert crew.wait() == dict.fromkeys(range(4), 0), crew.said()
    for number in range(4):
        assert crew.errors(number) == []
    return folder / "m"
