"""Searches the meshes and layouts of a number of devices for the quickest step that fits.

The search knows no model: a function that it is given plans a step on each candidate, or refuses it
with the error that training would end with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hmoe.plan.costs import Plan

# The axes of shipped layouts: the outer level exchanges along the first, the inner level along the
# second, and the third splits layers themselves.
COLS, ROWS, MODEL = "cols", "rows", "model"
_OF_MODEL = ("expert_hidden", "d_ff", "heads", "vocab")
# Rules for the experts of each number of levels.
_OF_EXPERTS: Mapping[int, tuple[tuple[str, str], ...]] = {
    1: (("experts", COLS),),
    2: (("expert_x", COLS), ("expert_y", ROWS)),
    3: (("expert_x", COLS), ("expert_y", ROWS)),
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh and a layout.

    Attributes:
      mesh: size of each mesh axis.
      layout: the mesh axis of each dimension that is split.
      outer_batch: size of the outer batch, which is split over the second axis.
    """

    mesh: Mapping[str, int]
    layout: Mapping[str, str]
    outer_batch: int

    @property
    def mesh_shape(self) -> str:
        """The mesh as `utils.run.mesh_shape` takes it."""
        return ";".join(f"{axis}:{size}" for axis, size in self.mesh.items())

    @property
    def layout_rules(self) -> str:
        """The layout as `utils.run.layout_rules` takes it."""
        return ";".join(f"{name}:{axis}" for name, axis in self.layout.items())


@dataclasses.dataclass(frozen=True)
class Judged:
    """A candidate with what became of it.

    Attributes:
      candidate: the mesh and the layout.
      plan: the costs of a step; None where it is refused.
      seconds: modelled time of a step; infinite where it is refused.
      refused: the error with which training would end; "" if there is none.
      fits: whether a device has the memory.
    """

    candidate: Candidate
    plan: Plan | None
    seconds: float
    refused: str
    fits: bool


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      ranked: the candidates that fit, the quickest first; of equal ones that with less memory.
      too_large: those that do not fit, the smallest first.
      refused: those that cannot be trained.
    """

    ranked: tuple[Judged, ...]
    too_large: tuple[Judged, ...]
    refused: tuple[Judged, ...]

    @property
    def front(self) -> tuple[Judged, ...]:
        """Those than which none is both quicker and smaller, the quickest first."""
        found: list[Judged] = []
        for each in self.ranked:
            if not found or _memory(each) < _memory(found[-1]):
                found.append(each)
        return tuple(found)


def candidates(devices: int, num_levels: int) -> Iterator[Candidate]:
    """Yields all meshes of up to three axes, with the layouts that use them.

    On each mesh the batch is split over both axes of experts, and the experts of a level over its
    axis or not at all, which makes the axis one of plain data parallelism.

    Args:
      devices: number of devices.
      num_levels: levels of the mixture layers; 0 for a dense model.
    """
    seen = set()
    for cols, rows, model in _factors(devices):
        mesh = {COLS: cols, ROWS: rows, MODEL: model}
        batch = {"outer_batch": ROWS, "batch": COLS}
        others = dict.fromkeys(_OF_MODEL, MODEL)
        for experts in _expert_rules(num_levels):
            layout = _on(mesh, {**batch, **dict(experts), **others})
            key = (cols, rows, model, tuple(layout.items()))
            if key not in seen:
                seen.add(key)
                yield Candidate(mesh, layout, rows)


def _factors(number: int) -> Iterator[tuple[int, int, int]]:
    for first in _divisors(number):
        for second in _divisors(number // first):
            yield first, second, number // first // second


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _expert_rules(num_levels: int) -> Iterator[tuple[tuple[str, str], ...]]:
    rules = _OF_EXPERTS.get(num_levels, ())
    for count in range(len(rules), -1, -1):
        yield rules[:count]
    yield from (rules[number:] for number in range(1, len(rules)))


def _on(mesh: Mapping[str, int], rules: Mapping[str, str]) -> dict[str, str]:
    """Leaves out the rules for axes of one device, but for those of the batch."""
    return {
        name: axis
        for name, axis in rules.items()
        if mesh[axis] > 1 or name in ("outer_batch", "batch")
    }


def search(
    tried: Iterable[Candidate],
    plan: Callable[[Candidate], Plan],
    seconds: Callable[[Plan], float],
    memory: float,
) -> Found:
    """Plans candidates, and ranks those that fit.

    Args:
      tried: the candidates.
      plan: plans a step on one of them; raises ValueError if it cannot be trained.
      seconds: the modelled time of a step.
      memory: bytes of a device.
    """
    judged = [_judged(each, plan, seconds, memory) for each in tried]
    planned = [each for each in judged if each.plan is not None]
    return Found(
        ranked=tuple(sorted((each for each in planned if each.fits), key=_rank)),
        too_large=tuple(sorted((each for each in planned if not each.fits), key=_memory)),
        refused=tuple(each for each in judged if each.plan is None),
    )


def _judged(
    candidate: Candidate,
    plan: Callable[[Candidate], Plan],
    seconds: Callable[[Plan], float],
    memory: float,
) -> Judged:
    try:
        planned = plan(candidate)
    except ValueError as error:
        return Judged(candidate, None, math.inf, str(error), fits=False)
    fits = planned.memory.total <= memory
    return Judged(candidate, planned, seconds(planned), "", fits=fits)


def _memory(judged: Judged) -> int:
    assert judged.plan is not None
    return judged.plan.memory.total


def _rank(judged: Judged) -> tuple[float, int]:
    return judged.seconds, _memory(judged)


def reasons(refused: Sequence[Judged]) -> dict[str, list[Candidate]]:
    """Returns the candidates that are refused, by the error of each."""
    found: dict[str, list[Candidate]] = {}
    for each in refused:
        found.setdefault(each.refused, []).append(each.candidate)
    return found
