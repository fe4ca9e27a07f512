"""Prints what a search of meshes and layouts found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType

from hmoe.plan import report, search
from hmoe.plan.costs import Plan
from hmoe.plan.hardware import Hardware
from hmoe.plan.search import Candidate, Found, Judged
from hmoe.plan.time_model import step_time
from hmoe.startup import tables

# Rows of the tables of what is best, and of what is refused.
_BEST, _REASONS = 8, 8


def search_report(
    own: Found, flat: Found | None, hardware: Hardware, *, styled: bool = False
) -> str:
    """Returns the tables of a search.

    Args:
      own: what was found for the model.
      flat: what was found for the same with one level of experts.
      hardware: the hardware that times were modelled on.
      styled: whether a terminal that knows styles reads it.
    """
    found: list[RenderableType] = []
    for title, each in (("The model", own), ("With one level of as many experts", flat)):
        if each is not None:
            found += [*_tables(title, each, hardware)]
    if flat is not None:
        found.append(_beside(own, flat))
    return tables.rendered(found, styled=styled)


def _tables(title: str, found: Found, hardware: Hardware) -> Iterator[RenderableType]:
    number = len(found.ranked)
    if not number:
        yield f"{title}: nothing fits {hardware.name}, which has {report.size(hardware.memory)}.\n"
    else:
        what = f"{title}: the quickest of {number} meshes and layouts that fit {hardware.name}"
        yield _table(what, found.ranked[:_BEST])
        yield _why(found.ranked[0], hardware)
        if len(found.front) > 1:
            yield _table(f"{title}: none is both quicker and smaller than these", found.front)
        else:
            yield "None of the others needs less memory.\n"
    if found.too_large:
        smallest = found.too_large[0]
        yield (
            f"{len(found.too_large)} do not fit; the smallest of them needs "
            f"{report.size(_plan(smallest).memory.total)}: {_name(smallest.candidate)}.\n"
        )
    yield from _refused(found.refused)


def _table(title: str, judged: Sequence[Judged]) -> RenderableType:
    table = tables.table("mesh", "experts split over", "time", "memory")
    for each in judged:
        memory = report.size(_plan(each).memory.total)
        mesh, experts = _mesh(each.candidate), _experts(each.candidate)
        table.add_row(mesh, experts, report.seconds(each.seconds), memory)
    return tables.titled(title, table)


def _why(best: Judged, hardware: Hardware) -> str:
    times = step_time(_plan(best), hardware)
    lines = [
        f"The quickest, {_name(best.candidate)}, is bound by {times.bound_by}: "
        f"{report.seconds(times.computing)} of multiplications"
        + "".join(
            f", {report.seconds(axis.seconds)} over {' and '.join(axis.axes)}"
            for axis in times.axes
        )
        + ".",
        f"To train with it: {' '.join(_flags(best.candidate))}",
        "",
    ]
    return "\n".join(lines)


def _flags(candidate: Candidate) -> list[str]:
    return [
        f"--gin_param=\"utils.run.mesh_shape = '{candidate.mesh_shape}'\"",
        f"--gin_param=\"utils.run.layout_rules = '{candidate.layout_rules}'\"",
        f"--gin_param='tpu_estimator_model_fn.outer_batch_size = {candidate.outer_batch}'",
        f"--gin_param='hmoe.HierarchicalMoE.inserted_outer_batch = {candidate.outer_batch}'",
    ]


def _refused(refused: Sequence[Judged]) -> Iterator[RenderableType]:
    if not refused:
        return
    reasons = search.reasons(refused)
    yield f"{len(refused)} cannot be trained:"
    for reason, candidates in list(reasons.items())[:_REASONS]:
        yield f"- {len(candidates)}: {reason}"
    if len(reasons) > _REASONS:
        yield f"- and for {len(reasons) - _REASONS} other reasons"
    yield ""


def _beside(own: Found, flat: Found) -> str:
    if not own.ranked or not flat.ranked:
        return ""
    mine, other = own.ranked[0], flat.ranked[0]
    return (
        f"At best, a step takes {report.seconds(mine.seconds)} with the levels of the model and "
        f"{report.seconds(other.seconds)} with one level: "
        f"{other.seconds / mine.seconds:.2f} times as long."
    )


def _plan(judged: Judged) -> Plan:
    assert judged.plan is not None
    return judged.plan


def _mesh(candidate: Candidate) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in candidate.mesh.items() if size > 1) or "1"


def _experts(candidate: Candidate) -> str:
    rules = [
        f"{name} over {axis}"
        for name, axis in candidate.layout.items()
        if name in ("experts", "expert_x", "expert_y", "expert_hidden")
    ]
    return ", ".join(rules) or "none"


def _name(candidate: Candidate) -> str:
    return f"{_mesh(candidate)}, experts: {_experts(candidate)}"


def search_as_json(found: Found) -> dict[str, Any]:
    """Returns what was found, for other programs; the front is a part of the ranking."""

    def judged(each: Judged) -> dict[str, Any]:
        own: dict[str, Any] = {
            "mesh": dict(each.candidate.mesh),
            "layout": dict(each.candidate.layout),
            "outer_batch": each.candidate.outer_batch,
        }
        if each.plan is None:
            return {**own, "refused": each.refused}
        return {**own, "seconds": each.seconds, "memory": each.plan.memory.total}

    return {
        "ranked": [judged(each) for each in found.ranked],
        "front": [judged(each) for each in found.front],
        "too_large": [judged(each) for each in found.too_large],
        "refused": [judged(each) for each in found.refused],
    }
