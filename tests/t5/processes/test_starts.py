"""How the processes of a run find one another, or say why they do not."""

from __future__ import annotations

import dataclasses
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hmoe.launcher.processes import free_ports
from hmoe.startup import worker_checks
from tests.t5.processes.crew import Crew

pytestmark = pytest.mark.slow

Start = Callable[..., Crew]
SHORT = ("--gin_param=train_steps = 2",)
ALL_DONE = dict.fromkeys(range(4), 0)


def test_a_late_process_is_waited_for(started: Start) -> None:
    crew = started(*SHORT, omitted=[2])
    crew.until_said("Waiting for")
    assert f"Waiting for {crew.name(2)} ..." in crew.members[0].out.splitlines()
    time.sleep(20)
    crew.members[2] = crew.start(2)
    assert crew.wait() == ALL_DONE, crew.said()


def test_nobody_at_an_address(started: Start, tmp_path: Path) -> None:
    crew = started(*SHORT, "--start_within=4", omitted=[1])
    assert crew.wait() == {0: 3, 2: 3, 3: 3}, crew.said()
    for number in (0, 2, 3):
        assert crew.errors(number) == [
            f"hmoe: error: {crew.name(1)} did not answer within 4 s (--start_within). Start every "
            "process with the same --workers and with its own --worker_index, and see that nothing "
            "between them closes these ports"
        ]
    assert not (tmp_path / "m" / "config.gin").exists()


def test_a_port_in_use(started: Start) -> None:
    (port, *others) = free_ports(4)
    addresses = [f"127.0.0.1:{each}" for each in (*others, port)]
    with worker_checks.listening(port):
        crew = started(*SHORT, "--start_within=8", addresses=addresses)
        assert crew.wait() == {0: 3, 1: 3, 2: 3, 3: 2}, crew.said()
    assert crew.errors(3) == [
        f"hmoe: error: port {port} of this machine, which --workers gives to this process (number "
        "3), is in use by another program; end that, or choose another port"
    ]


def test_two_processes_of_one_number(started: Start) -> None:
    """One of the two ends, and the run goes on with the other."""
    crew = started(*SHORT)
    first, second = crew.members[1], crew.start(1)
    crew.members[4] = dataclasses.replace(second, number=4)
    statuses = crew.wait()
    loser = 1 if statuses[1] else 4
    assert statuses.pop(loser) in (1, 2), crew.said()
    assert set(statuses.values()) == {0}, crew.said()
    error = (first if loser == 1 else second).error
    assert re.search("port .* is in use by another program|process 1 cannot serve at ", error)


def test_differing_gin(started: Start, tmp_path: Path) -> None:
    crew = started(more={2: ["--gin_param=dropout_rate = 0.2"]})
    assert crew.wait() == dict.fromkeys(range(4), 2), crew.said()
    for number in range(4):
        (error,) = crew.errors(number)
        assert re.sub(r"line \d+", "line N", error) == (
            "hmoe: error: the processes of the run differ in their gin configuration, line N: "
            "process 0 has 'dropout_rate = 0.1', process 2 has 'dropout_rate = 0.2'. Start all "
            "with the same command, gin files, data and code"
        )
    assert not list((tmp_path / "m").glob("model.*"))


def test_one_with_a_wrong_command(started: Start) -> None:
    """It ends before it has met the others."""
    crew = started(*SHORT, "--start_within=8", more={3: ["--gin_file=nowhere.gin"]})
    assert crew.wait() == {0: 3, 1: 3, 2: 3, 3: 2}, crew.said()
    for number in range(3):
        (line,) = crew.errors(number)
        assert line.startswith(f"hmoe: error: {crew.name(3)} "), line


def test_told_to_stop_while_it_waits(started: Start) -> None:
    crew = started(*SHORT, omitted=[1])
    crew.until_said("Waiting for")
    for number in (0, 2, 3):
        crew.send(number, signal.SIGTERM)
    assert crew.wait() == {0: 143, 2: 143, 3: 143}, crew.said()
