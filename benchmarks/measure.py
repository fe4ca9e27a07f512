"""The driver of one case: starts its sides, has their numbers compared, lets them run in turns."""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cases import Case, Same, Side
from benchmarks.workers import SideError, Worker

# Between two steps of different processes, for threads that still spin to fall asleep.
PAUSE = 0.05

Say = Callable[[str], None]


class MismatchError(Exception):
    """Two sides that should do the same give different numbers."""


def run_case(
    case: Case, turns: int, pythons: dict[str, str], logs: pathlib.Path, say: Say
) -> dict[str, Any]:
    """Measures a case.

    Args:
      case: what to measure.
      turns: steps of each side.
      pythons: the interpreter of each environment.
      logs: folder for what processes print.
      say: takes a line of progress.

    Returns:
      What `benchmarks.report` reads: sides by name, comparisons, and an error if there was one.
    """
    result: dict[str, Any] = {
        "name": case.name,
        "title": case.title,
        "sides": {},
        "comparisons": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        numbers = pathlib.Path(folder)
        try:
            for sides in case.rounds:
                _Round(case, sides, pythons, logs, numbers, say).measure(turns, result)
        except (MismatchError, SideError) as error:
            result["error"] = str(error)
    return result


class _Round:
    """Sides that are alive together."""

    def __init__(self, case, sides, pythons, logs, numbers, say):
        self._case, self._sides, self._say = case, sides, say
        self._pythons, self._logs, self._numbers = pythons, logs, numbers
        self._workers: dict[str, Worker] = {}

    def measure(self, turns: int, result: dict[str, Any]) -> None:
        told = result["sides"]
        try:
            for side in self._sides:
                told[side.name] = self._prepare(side)
            self._compare(result["comparisons"])
            timed = [side.name for side in self._sides if side.name in self._workers]
            seconds, peaks = in_turns(
                timed,
                turns,
                lambda name: _dict(self._workers[name].ask("step")),
                lambda name: self._workers[name].ask("peak"),
            )
        finally:
            for worker in self._workers.values():
                worker.stop()
        for name, found in seconds.items():
            told[name].update(_summary(found))
        _add_peaks(told, seconds, peaks)

    def _start(self, side: Side) -> Worker:
        log = self._logs / f"{self._case.name}.{side.name}.log".replace(" ", "_")
        return Worker(self._pythons[side.environment], side.module, side.kind, side.settings, log)

    def _prepare(self, side: Side) -> dict[str, Any]:
        """Starts a side and has it do all that is not timed."""
        self._say(f"  {side.name}: starting")
        try:
            worker = self._start(side)
            self._workers[side.name] = worker
            told = dict(
                worker.ask("describe"),
                seconds_to_start=worker.seconds_to_start,
                first_step=_dict(worker.ask("step"))["step"],
                memory=worker.ask("memory"),
            )
            if any(side.name in (same.first, same.second) for same in self._case.same):
                worker.ask("compare", path=str(self._file(side.name)))
            if not side.timed:
                self._workers.pop(side.name).stop()
            return told
        except SideError as error:
            self._say(f"  {side.name}: {error}")
            if side.name in self._workers:
                self._workers.pop(side.name).stop()
            return {"error": str(error)}

    def _file(self, name: str) -> pathlib.Path:
        return self._numbers / f"{name}.npz"

    def _compare(self, comparisons: list[dict[str, Any]]) -> None:
        """Compares pairs of which both sides have told their numbers by now.

        Raises:
          MismatchError: they differ by more than they may.
        """
        here = {side.name for side in self._sides}
        for same in self._case.same:
            files = self._file(same.first), self._file(same.second)
            if here & {same.first, same.second} and all(file.exists() for file in files):
                compared = compare(same, *files)
                self._say(
                    f"  {same.first} and {same.second}: differ by at most"
                    f" {compared['largest']:.1e} ({compared['of']})"
                )
                comparisons.append(compared)


def in_turns(names, turns, step, peak, pause=time.sleep):
    """Runs every side once a turn, A B A B, and a multiply beside each step.

    Args:
      names: of the sides.
      turns: how many.
      step: of a name: seconds of one step, by what was timed.
      peak: of a name: FLOP/s; 0 for a side that has none.
      pause: takes seconds to wait before each step.

    Returns:
      (by name a list of what `step` told, by name a list of what `peak` told).
    """
    seconds: dict[str, list] = {name: [] for name in names}
    peaks: dict[str, list] = {name: [] for name in names}
    for _ in range(turns):
        for name in names:
            pause(PAUSE)
            seconds[name].append(step(name))
            peaks[name].append(peak(name))
    return seconds, peaks


def compare(same: Same, first: pathlib.Path, second: pathlib.Path) -> dict[str, Any]:
    """The largest difference of two sides, each array's over the largest number in it.

    Raises:
      MismatchError: it is above the tolerance, or they have not told the same arrays.
    """
    where = f"'{same.first}' and '{same.second}'"
    with np.load(first) as one, np.load(second) as other:
        if sorted(one.files) != sorted(other.files):
            raise MismatchError(
                f"{where} tell different arrays: {sorted(set(one.files) ^ set(other.files))}"
            )
        found = {name: _difference(one[name], other[name]) for name in one.files}
    of = max(found, key=lambda name: found[name][0])
    largest = found[of][0]
    if same.tolerance is not None and not largest <= same.tolerance:
        raise MismatchError(
            f"{where} differ in {of} by {largest:.2g} of its largest number; at"
            f" most {same.tolerance:g} is rounding"
        )
    return {
        "first": same.first,
        "second": same.second,
        "tolerance": same.tolerance,
        "largest": largest,
        "of": of,
        "rms": max(rms for _, rms in found.values()),
    }


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """(largest over the largest number, root of the mean square over that of the numbers)."""
    # A dimension of 1 is written by some and not by others.
    one, other = one.squeeze(), other.squeeze()
    if one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf"), float("inf")
    difference = one - other
    tiny = 1e-30
    return (
        float(np.abs(difference).max()) / max(float(np.abs(other).max()), tiny),
        float(np.linalg.norm(difference.ravel())) / max(float(np.linalg.norm(other.ravel())), tiny),
    )


def _dict(seconds: Any) -> dict[str, float]:
    return seconds if isinstance(seconds, dict) else {"step": seconds}


def _summary(found: list[dict[str, float]]) -> dict[str, Any]:
    """Statistics of a side's steps: "seconds", and of whatever else it timed."""
    columns = {key: [each[key] for each in found] for key in found[0]}
    summaries = {key: statistics_of(values) for key, values in columns.items()}
    return {"seconds": summaries.pop("step"), "more": summaries}


def statistics_of(values: list[float]) -> dict[str, Any]:
    """Median, range and quartiles, and the values themselves."""
    quartiles = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values * 3)
    )
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "quartiles": [quartiles[0], quartiles[2]],
        "all": values,
    }


def _add_peaks(told, seconds, peaks) -> None:
    """Gives each side the peak of its library and type, over all sides of the round."""
    pooled: dict[tuple, list] = {}
    for name, values in peaks.items():
        key = told[name].get("library"), told[name].get("dtype")
        pooled.setdefault(key, []).extend(value for value in values if value)
    for name in seconds:
        side = told[name]
        values = pooled[side.get("library"), side.get("dtype")]
        if values and side.get("flops"):
            median = statistics.median(values)
            side["peak"] = {"median": median, "best": max(values)}
            side["efficiency"] = side["flops"] / (side["seconds"]["median"] * median)
