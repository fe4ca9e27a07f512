"""Draws a plan, and what one level and two send over the slow axis on meshes of growing size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from hmoe.plan import pictures
from hmoe.plan.costs import ALL_TO_ALL, DISPATCH, LevelPlan, Plan
from hmoe.plan.hardware import Hardware
from hmoe.plan.one_level import one_level
from hmoe.plan.pictures import Point
from hmoe.plan.report import PART_NAMES
from hmoe.plan.search import COLS, ROWS, Candidate
from hmoe.plan.time_model import StepTime
from hmoe.t5.graphs.model_settings import ModelSettings
from hmoe.t5.graphs.other_meshes import OtherMeshes


def draw(
    folder: str,
    plan: Plan,
    times: StepTime,
    settings: ModelSettings,
    *,
    packed: bool,
) -> list[str]:
    """Writes the pictures of a plan.

    Args:
      folder: where to; it is made if it is not there.
      plan: the plan.
      times: its modelled time.
      settings: the model's settings.
      packed: whether a sequence may hold several examples.

    Returns:
      The paths of the pictures.
    """
    os.makedirs(folder, exist_ok=True)
    hardware = times.hardware
    figures = {
        "memory": pictures.memory_by_part(plan.memory, hardware.memory, hardware.name),
        "time": pictures.time_of_step(_shares(times)),
    }
    curves = slow_axis(plan, hardware, settings, packed=packed)
    if curves is not None:
        figures["slow_axis"] = pictures.slow_axis(*curves)
    return [
        path for name, figure in figures.items() for path in pictures.save(figure, folder, name)
    ]


def _shares(times: StepTime) -> dict[str, float]:
    """Returns the seconds of a step by what they are for."""
    found = {PART_NAMES[part]: seconds for part, seconds in times.compute.items() if seconds}
    for axis in times.axes:
        found[f"over {' and '.join(axis.axes)}"] = axis.seconds
    return found


def slow_axis(
    plan: Plan, hardware: Hardware, settings: ModelSettings, *, packed: bool
) -> tuple[list[Point], list[Point]] | None:
    """Plans the same step with one level and with two, on more and more hosts.

    The inner level has the devices of one host, as many as in the plan. The flat mixture has all
    devices on one axis, and sends to those of its own host over fast links.

    Returns:
      The points of one level and of two; None if the plan is not of two levels that are split over
      two axes, or there are not two meshes to compare.
    """
    levels = plan.layers[0].levels if plan.layers else ()
    if len(levels) != 2 or None in (levels[0].axis, levels[1].axis):
        return None
    inside = levels[1].splits

    def meshes(change: Callable | None) -> OtherMeshes:
        return OtherMeshes(settings, on_tpu=plan.on_tpu, packed=packed, change=change)

    two, one = meshes(None), meshes(one_level)
    points: tuple[list[Point], list[Point]] = ([], [])
    for hosts in _numbers_of_hosts(levels[0]):
        devices = hosts * inside
        try:
            flat, deep = one.plan(_flat(devices)), two.plan(_deep(hosts, inside))
        except ValueError:
            continue  # a number of devices that the sizes of the model do not suit
        crossing = (devices - inside) / (devices - 1)
        sizes = (_moved(flat) * crossing, float(_moved(deep)))
        for found, size in zip(points, sizes):
            found.append(Point(devices, size, size / hardware.slow))
    return points if len(points[0]) > 1 else None


def _numbers_of_hosts(outer: LevelPlan) -> Iterator[int]:
    """Yields the numbers of hosts above one that can share the outer experts."""
    return (hosts for hosts in range(2, outer.num_experts + 1) if outer.num_experts % hosts == 0)


def _deep(hosts: int, inside: int) -> Candidate:
    layout = {"outer_batch": ROWS, "batch": COLS, "expert_x": COLS, "expert_y": ROWS}
    return Candidate({COLS: hosts, ROWS: inside}, layout, inside)


def _flat(devices: int) -> Candidate:
    return Candidate({COLS: devices, ROWS: 1}, {"batch": COLS, "experts": COLS}, 1)


def _moved(plan: Plan) -> int:
    """Returns the bytes that move tokens along the first axis."""
    return plan.costs.sent(
        lambda each: (
            each.kind == ALL_TO_ALL and each.axes == (COLS,) and each.place.part == DISPATCH
        )
    )
