"""Models the time of a step from its costs and the hardware: a model, which leaves much out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from hmoe.plan import remarks
from hmoe.plan.costs import DISPATCH, EXPERTS, Exchange, Plan
from hmoe.plan.hardware import Hardware
from hmoe.startup import mesh_order

# Of what a step really takes time for.
NOT_MODELLED = (
    "the time that a message takes however short it is",
    "reading and writing memory, and all that is no product of matrices",
    "how far products of small or odd matrices stay below the peak",
    "what else uses the links of an axis at the same time, and detours in a torus",
    "the host: reading data, starting programs, saving",
)


@dataclasses.dataclass(frozen=True)
class AxisTime:
    """The exchanges along some mesh axes.

    Attributes:
      axes: names of the axes.
      hosts: number of hosts that they spread over.
      size: bytes that a device sends in a step.
      seconds: modelled time.
      operations_per_byte: operations of a step for each of these bytes.
      needed_per_byte: operations that the hardware does in the time of one byte: with fewer, the
        exchange takes longer than the computation.
    """

    axes: tuple[str, ...]
    hosts: int
    size: int
    seconds: float
    operations_per_byte: float
    needed_per_byte: float


@dataclasses.dataclass(frozen=True)
class StepTime:
    """The modelled time of a step.

    Attributes:
      hardware: the hardware.
      compute: seconds of multiplications, by part.
      axes: the exchanges, by the axes that they run along.
      fits: whether a device has the memory.
      remarks: levels whose exchanges take longer than their experts, in sentences.
    """

    hardware: Hardware
    compute: Mapping[str, float]
    axes: tuple[AxisTime, ...]
    fits: bool
    remarks: tuple[str, ...]

    @property
    def computing(self) -> float:
        """Seconds of all multiplications."""
        return sum(self.compute.values())

    @property
    def communicating(self) -> float:
        """Seconds of all exchanges, one after the other."""
        return sum(axis.seconds for axis in self.axes)

    @property
    def one_after_the_other(self) -> float:
        """Seconds of a step in which nothing overlaps."""
        return self.computing + self.communicating

    @property
    def overlapping(self) -> float:
        """Seconds of a step whose exchanges overlap with its multiplications altogether."""
        return max(self.computing, self.communicating)

    @property
    def bound_by(self) -> str:
        """What takes longest: "multiplications", or the axes of an exchange."""
        longest = max(self.axes, key=lambda axis: axis.seconds, default=None)
        if longest is None or self.computing >= longest.seconds:
            return "multiplications"
        return f"exchanges over {' and '.join(longest.axes)}"


def step_time(plan: Plan, hardware: Hardware) -> StepTime:
    """Models the time of a planned step.

    Args:
      plan: the plan.
      hardware: the hardware of each device.
    """
    hosts = hosts_of_axes(plan.mesh, plan.layout, hardware.devices_per_host)
    compute = {
        part: 2 * plan.costs.multiplied(part) / hardware.peak
        for part in dict.fromkeys(place.part for place in plan.costs.multiplications)
    }
    operations = 2 * plan.costs.multiplied()
    axes = [
        _axis_time(each, hosts, operations, plan, hardware)
        for each in dict.fromkeys(exchange.axes for exchange in plan.costs.exchanges)
    ]
    per_byte = {axis: 1 / hardware.bandwidth(number) for axis, number in hosts.items()}
    levels = [e.place.level for e in plan.costs.exchanges if e.place.part == DISPATCH]
    return StepTime(
        hardware=hardware,
        compute=compute,
        axes=tuple(axes),
        fits=plan.memory.total <= hardware.memory,
        remarks=remarks.costly_exchanges(
            plan.costs, list(dict.fromkeys(levels)), compute.get(EXPERTS, 0.0), per_byte
        ),
    )


def _axis_time(
    axes: tuple[str, ...],
    hosts: Mapping[str, int],
    operations: int,
    plan: Plan,
    hardware: Hardware,
) -> AxisTime:
    def is_along(exchange: Exchange) -> bool:
        return exchange.axes == axes

    size = plan.costs.sent(is_along)
    number = max(hosts[axis] for axis in axes)
    bandwidth = hardware.bandwidth(number)
    return AxisTime(
        axes=axes,
        hosts=number,
        size=size,
        seconds=size / bandwidth,
        operations_per_byte=operations / size if size else float("inf"),
        needed_per_byte=hardware.peak / bandwidth,
    )


def hosts_of_axes(
    mesh: Mapping[str, int], layout: Mapping[str, str], devices_per_host: int | None
) -> dict[str, int]:
    """Returns the number of hosts that the devices along each axis are spread over.

    Devices are numbered host by host, so that the axis of the inner level lies inside a host as far
    as it has room (`hmoe.startup.mesh_order`).
    """
    # What a slower axis spans follows from the sizes of the faster ones.
    found, inside = {}, 1
    for axis in reversed(mesh_order.slowest_first(mesh, list(layout.items()))):
        size = mesh[axis]
        per_host = size if devices_per_host is None else max(1, devices_per_host // inside)
        found[axis] = -(-size // min(size, per_host))
        inside *= size
    return {axis: found[axis] for axis in mesh}
