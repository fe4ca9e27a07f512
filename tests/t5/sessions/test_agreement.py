"""The end of a run of many processes, with the exchange between them replaced by one that fails."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.startup.workers import Workers
from hmoe.t5.sessions import agreement, processes
from hmoe.t5.sessions.processes import Processes


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the exchanges that are run; two processes of which the other one agrees."""
    workers = Workers(addresses=("127.0.0.1:1", "127.0.0.1:2"), index=0)
    monkeypatch.setattr(processes, "_current", [Processes(workers, "", "", "auto")])
    run: list[int] = []

    def gather(value: np.ndarray, number: int, within: float | None = None) -> np.ndarray:
        run.append(number)
        if number == agreement._FAREWELL:
            raise tf.errors.InternalError(None, None, "Collective ops is aborted by: a peer ended")
        return np.concatenate([value, value])

    monkeypatch.setattr(agreement, "_run_gather", gather)
    return run


def test_an_end_of_another_process_does_not_matter_once_all_are_done(numbers: list[int]) -> None:
    agreement.leave_together()
    assert numbers == [agreement._DIGESTS, agreement._FAREWELL]


def test_an_error_before_matters(numbers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_FAREWELL", agreement._DIGESTS)
    with pytest.raises(tf.errors.InternalError, match="a peer ended"):
        agreement.leave_together()


def test_tasks_have_as_many_digits() -> None:
    """TensorFlow orders them as text."""
    for size in (2, 10, 11, 12, 100, 101):
        workers = Workers(addresses=tuple(f"h:{n + 1}" for n in range(size)), index=0)
        tasks = [str(processes._task(workers, number)) for number in range(size)]
        assert sorted(tasks) == tasks
