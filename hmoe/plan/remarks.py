"""What of a plan is legal but wasteful, in sentences that name the setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hmoe.plan.costs import DISPATCH, LayerPlan, LevelPlan, StepCosts

# Slots that the minimum adds are worth a word from this factor on.
_RAISED = 1.01
# Bytes of weights that are not split from which that is worth a word.
_LARGE = 1e9


def remarks(
    mesh: Mapping[str, int],
    layout: Mapping[str, str],
    layers: Sequence[LayerPlan],
    weights: int,
    whole_weights: int,
) -> tuple[str, ...]:
    """Returns sentences about a mesh and the mixture layers on it, each once.

    Args:
      mesh: size of each mesh axis.
      layout: the mesh axis of each dimension that is split.
      layers: the mixture layers.
      weights: bytes of the weights on a device.
      whole_weights: bytes of those of which every device has all.
    """
    found = [*_of_mesh(mesh, layout)]
    for layer in layers:
        found += _of_layer(layer, mesh)
    if whole_weights > max(_LARGE, weights / 2) and any(size > 1 for size in mesh.values()):
        found.append(
            f"{whole_weights / 1e9:.1f} GB of the {weights / 1e9:.1f} GB of weights on a device "
            "are not split: every device has all of them, and sends all of their gradients. An "
            "axis for d_ff, heads and vocab splits them (utils.run.layout_rules)"
        )
    return tuple(dict.fromkeys(found))


def _of_mesh(mesh: Mapping[str, int], layout: Mapping[str, str]) -> Iterator[str]:
    for axis, size in mesh.items():
        if size > 1 and axis not in layout.values():
            yield (
                f"The mesh axis {axis} of {size} devices splits nothing: all of them do the same "
                "work. Add a layout rule for it, or leave it out (utils.run.layout_rules)"
            )
    batch = [name for name in ("outer_batch", "batch") if mesh.get(layout.get(name, ""), 1) > 1]
    if not batch and any(size > 1 for size in mesh.values()):
        yield (
            "No batch dimension is split: every device computes all tokens outside the experts. "
            "Add rules for batch and outer_batch (utils.run.layout_rules)"
        )


def _of_layer(layer: LayerPlan, mesh: Mapping[str, int]) -> Iterator[str]:
    for level in layer.levels:
        yield from _of_level(level, mesh)
    if len(layer.levels) > 2:
        yield (
            f"The third level, '{layer.levels[2].name}', is not split: a T5 has two batch "
            "dimensions. Every device holds all of its experts"
        )
    if layer.empty_share > 0.5:
        yield (
            f"At least {layer.empty_share:.0%} of the experts' work is spent on empty slots: there "
            f"are {layer.slots_per_token:.2f} slots a token. Lower the capacity factors or "
            "min_capacity"
        )


def _of_level(level: LevelPlan, mesh: Mapping[str, int]) -> Iterator[str]:
    if level.axis is None and any(size > 1 for size in mesh.values()):
        yield (
            f"The {level.num_experts} experts of level '{level.name}' are not split: every device "
            "holds all of them. Add a layout rule for their dimension (utils.run.layout_rules)"
        )
    if level.capacity > level.asked_capacity * _RAISED and level.capacity > 1:
        yield (
            f"Level '{level.name}': min_capacity raises the capacity from "
            f"{level.asked_capacity:.3g} to {level.capacity} slots, "
            f"{level.capacity / level.asked_capacity:.2g} times as many. Larger groups or a lower "
            "min_capacity waste less"
        )
    if level.asked_group_size is not None and level.group_size < level.asked_group_size:
        yield (
            f"Level '{level.name}': groups have {level.group_size} tokens and not the "
            f"{level.asked_group_size} asked for: the largest number that divides the tokens of a "
            "device"
        )


def costly_exchanges(
    costs: StepCosts,
    levels: Sequence[str],
    seconds_of_experts: float,
    seconds_per_byte: Mapping[str, float],
) -> tuple[str, ...]:
    """Returns sentences about levels whose exchanges take longer than all experts.

    Args:
      costs: the costs of a step.
      levels: names of the levels.
      seconds_of_experts: modelled time of the experts' multiplications in a step.
      seconds_per_byte: of each mesh axis.
    """
    found = []
    for level in levels:
        seconds = sum(
            each.size * max(seconds_per_byte[axis] for axis in each.axes)
            for each in costs.exchanges
            if each.place.part == DISPATCH and each.place.level == level
        )
        if seconds > seconds_of_experts:
            found.append(
                f"Level '{level}': its exchanges take {seconds * 1e3:.3g} ms of a step, more than "
                f"the {seconds_of_experts * 1e3:.3g} ms of all experts. Larger experts, fewer "
                "choices, or a faster axis pay better"
            )
    return tuple(found)
