"""Prints a plan as tables for a person, in at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from hmoe.plan.costs import OTHER, PARTS, PHASES, Exchange, LayerPlan, LevelPlan, Plan
from hmoe.plan.time_model import NOT_MODELLED, StepTime
from hmoe.startup.tables import rendered, table, titled

# What tables call the parts.
PART_NAMES = {part: part for part in PARTS} | {OTHER: "all else"}


def report(plan: Plan, times: StepTime | None = None, *, styled: bool = False) -> str:
    """Returns the tables of a plan.

    Args:
      plan: the plan.
      times: the modelled time of a step; None to leave it out.
      styled: whether a terminal that knows styles reads it.
    """
    found: list[RenderableType] = [_heading(plan), multiplications(plan), exchanges(plan)]
    found += [memory(plan, times)]
    found += levels(plan)
    found += [time_of_axes(times), _time_lines(times)] if times else []
    found += [_remarks(plan, times)]
    return rendered(found, styled=styled)


def _heading(plan: Plan) -> str:
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items()) or "none"
    layout = ", ".join(f"{name} over {axis}" for name, axis in plan.layout.items()) or "none"
    parameters, active = count(plan.parameters), count(plan.active_parameters)
    lines = [
        f"Devices: {plan.devices:,} ({'TPU cores' if plan.on_tpu else 'CPUs or GPUs'})",
        f"Mesh: {mesh}",
        f"Layout: {layout}",
        f"Step: {plan.tokens:,} tokens in {plan.microbatches} microbatch"
        f"{'' if plan.microbatches == 1 else 'es'}",
        f"Parameters: {parameters}, of which a token uses at most {active}",
        "",
        "All that follows is for one device and one training step.",
    ]
    return "\n".join(lines)


def multiplications(plan: Plan) -> Group:
    """Returns the multiplications by part and phase."""
    found = table("part", *PHASES, "all", "share")
    total = plan.costs.multiplied()
    for part in PARTS:
        numbers = [plan.costs.multiplied(part, phase) for phase in PHASES]
        if sum(numbers):
            found.add_row(*_counts(PART_NAMES[part], numbers), _share(sum(numbers), total))
    numbers = [plan.costs.multiplied(None, phase) for phase in PHASES]
    found.add_row(*_counts("all", numbers), "")
    return titled("Multiplications", found)


def _counts(name: str, numbers: Sequence[int]) -> list[str]:
    return [name, *(count(each) for each in numbers), count(sum(numbers))]


def exchanges(plan: Plan) -> RenderableType:
    """Returns the bytes that a device sends, by axis, kind and level."""
    if not plan.costs.exchanges:
        return "\nA device sends nothing to others.\n"
    found = table("over", "kind", "of", *PHASES, "all", "number")
    for axes in sorted({each.axes for each in plan.costs.exchanges}, key=lambda axes: axes[::-1]):
        along = [each for each in plan.costs.exchanges if each.axes == axes]
        for kind, of in dict.fromkeys((each.kind, _of(each)) for each in along):
            same = [each for each in along if (each.kind, _of(each)) == (kind, of)]
            found.add_row(" and ".join(axes), kind, of, *_sizes(same))
        found.add_section()
    found.add_row("all", "", "", *_sizes(plan.costs.exchanges))
    return titled("Bytes sent to other devices", found)


def _of(exchange: Exchange) -> str:
    place = exchange.place
    if place.part == OTHER:
        return PART_NAMES[OTHER]
    return f"{place.part}, {place.level}" if place.level else place.part


def _sizes(same: Sequence[Exchange]) -> list[str]:
    sizes = [sum(each.size for each in same if each.place.phase == phase) for phase in PHASES]
    number = sum(each.count for each in same)
    return [*(size(each) if each else "" for each in sizes), size(sum(sizes)), f"{number:,}"]


def memory(plan: Plan, times: StepTime | None) -> Group:
    """Returns the memory by part, and whether it fits."""
    found = table("what", "size", "share")
    total = plan.memory.total
    for name, number in (
        ("parameters", plan.memory.parameters),
        ("gradients", plan.memory.gradients),
        ("optimizer", plan.memory.optimizer),
        ("activations, at most, kept for the backward pass", plan.memory.activations),
    ):
        found.add_row(name, size(number), _share(number, total))
    found.add_row("all", size(total), "")
    if times is not None:
        answer = "it fits" if times.fits else "it does not fit"
        found.add_row(f"{times.hardware.name} has", size(times.hardware.memory), answer)
    return titled("Memory", found)


def levels(plan: Plan) -> list[RenderableType]:
    """Returns the sizes of the levels of the mixture layers, of equal layers once."""
    found: list[RenderableType] = []
    for sizes, layers in _alike(plan.layers).items():
        title = layers[0].name
        if len(layers) > 1:
            title = f"{title} and {len(layers) - 1} like it"
        columns = ("experts", "split over", "groups", "tokens of each", "capacity", "slots a token")
        rows = table("level", *columns)
        for level in sizes:
            rows.add_row(*_level(level))
        found += [titled(f"Mixture layer {title}", rows), _slots(layers[0])]
    return found


def _alike(layers: Sequence[LayerPlan]) -> dict[tuple[LevelPlan, ...], list[LayerPlan]]:
    found: dict[tuple[LevelPlan, ...], list[LayerPlan]] = {}
    for layer in layers:
        found.setdefault(layer.levels, []).append(layer)
    return found


def _level(level: LevelPlan) -> list[str]:
    split = f"{level.axis} {level.splits}" if level.axis else "none"
    return [
        level.name,
        f"{level.num_experts:,}",
        split,
        f"{level.num_groups:,}",
        f"{level.group_size:,}",
        f"{level.capacity:,}",
        f"{level.slots_per_token:.2f}",
    ]


def _slots(layer: LayerPlan) -> str:
    return (
        f"  {layer.experts:,} experts with {layer.slots:,} slots, {layer.slots_per_token:.2f} for "
        f"each of {layer.tokens:,} tokens; at least {layer.empty_share:.0%} stay empty.\n"
    )


def time_of_axes(times: StepTime) -> Group:
    """Returns the modelled time of multiplications and of the exchanges over each axis."""
    found = table("what", "hosts", "time", "operations a byte", "needed")
    for part in PARTS:
        if times.compute.get(part):
            found.add_row(PART_NAMES[part], "", seconds(times.compute[part]), "", "")
    for axis in times.axes:
        found.add_row(
            f"exchanges over {' and '.join(axis.axes)}",
            f"{axis.hosts:,}",
            seconds(axis.seconds),
            count(axis.operations_per_byte),
            count(axis.needed_per_byte),
        )
    return titled(f"Modelled time on {times.hardware.name}", found)


def _time_lines(times: StepTime) -> str:
    return "\n".join(
        [
            f"A step: {seconds(times.overlapping)} if exchanges and multiplications overlap, "
            f"{seconds(times.one_after_the_other)} if nothing does; bound by {times.bound_by}.",
            f"Figures: {times.hardware.source}.",
            f"A model: it leaves out {'; '.join(NOT_MODELLED)}.",
            "",
        ]
    )


def _remarks(plan: Plan, times: StepTime | None) -> str:
    found = [*plan.remarks, *(times.remarks if times else ())]
    return "\n".join(f"- {line}" for line in found)


def count(number: float) -> str:
    """Formats a number in three digits: 1,234, 57.7 M, 3.87 T."""
    return _scaled(number, ["", " k", " M", " G", " T", " P", " E"], whole_below=10_000)


def size(number: float) -> str:
    """Formats bytes in three digits: 900 B, 57.7 MB."""
    return _scaled(number, [" B", " kB", " MB", " GB", " TB", " PB"], whole_below=1000)


def seconds(number: float) -> str:
    """Formats a time in three digits: 12.3 ms, 4.56 s."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if number >= scale:
            return f"{_digits(number / scale)} {unit}"
    return f"{_digits(number / 1e-9)} ns"


def _scaled(number: float, units: Sequence[str], whole_below: int) -> str:
    if number < whole_below:
        return f"{number:,.0f}{units[0]}"
    power = 0
    while number >= 999.5 and power + 1 < len(units):
        number, power = number / 1000, power + 1
    return f"{_digits(number)}{units[power]}"


def _digits(number: float) -> str:
    return f"{number:.{max(0, 2 - len(str(int(number))) + 1)}f}"


def _share(number: float, total: float) -> str:
    return f"{number / total:.1%}" if total else ""
