"""Splits the variables of experts into one variable for each expert, and merges them again.

A layer's variable with all experts, `<layer>/wi/kernel` [expert_y, expert_x, M, F], is split into
`<layer>/expert_<x>_<y>/wi/kernel` [M, F], with the outermost level's number first. Nothing is
computed, so both directions are exact to the bit. Variables of experts are recognized by shapes
alone: those of the first projection, and of the layer's gating weights.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

Variables = dict[str, np.ndarray]

_SLOT = re.compile(r"(_slot_\w+|/adam_[mv])$")
_SEPARATE = re.compile(
    r"(?P<layer>(?:.+/)?)expert_(?P<numbers>\d+(?:_\d+)*)/"
    r"(?P<variable>[^/]+/(?:kernel|bias))"
)


def expert_scope(numbers: Sequence[int]) -> str:
    """Returns the name of an expert, such as "expert_3_0".

    Args:
      numbers: the number of the expert at each level, outermost first.
    """
    return "_".join(["expert", *[str(number) for number in numbers]])


def split_experts(variables: Mapping[str, np.ndarray]) -> Variables:
    """Gives every expert of a model variables of its own.

    Args:
      variables: all of a checkpoint, by name. Kernels of experts are
        [(expert_z), (expert_y), experts, ., .], their biases without the middle one.

    Returns:
      Those of experts split; the others as they are, without the optimizer's.

    Raises:
      ValueError: no variable is of experts, or shapes do not fit one another.
    """
    kept = _without_slots(variables)
    joined: dict[str, int] = {}
    for layer, num_levels in _layers(kept).items():
        joined.update(dict.fromkeys(_joined(kept, layer, num_levels), num_levels))
    if not joined:
        raise ValueError(
            "no variable holds several experts: there is no layer with wi/kernel (or wi_0/kernel)"
            " of three dimensions or more beside its gating weights. Name the checkpoint of a"
            " model with hmoe.MoELayer that is not split already"
        )
    made: Variables = {}
    for name, value in kept.items():
        if name not in joined:
            made[name] = value
            continue
        layer, variable = _parts(name)
        sizes = value.shape[: joined[name]]
        for numbers in itertools.product(*map(range, sizes)):
            made[f"{layer}{expert_scope(numbers[::-1])}/{variable}"] = value[numbers]
    return made


def merge_experts(variables: Mapping[str, np.ndarray]) -> Variables:
    """Merges the variables of single experts, the inverse of `split_experts`.

    Args:
      variables: all of a checkpoint, by name.

    Returns:
      Those of experts merged; the others as they are, without the optimizer's.

    Raises:
      ValueError: no variable is of a single expert, an expert is missing, or experts of
        one layer have other shapes or types.
    """
    kept = _without_slots(variables)
    made: Variables = {}
    experts: dict[str, dict[tuple[int, ...], str]] = {}
    for name, value in kept.items():
        found = _SEPARATE.fullmatch(name)
        if found is None:
            made[name] = value
            continue
        numbers = tuple(int(number) for number in reversed(found["numbers"].split("_")))
        experts.setdefault(found["layer"] + found["variable"], {})[numbers] = name
    if not experts:
        raise ValueError(
            "no variable is of a single expert, as in expert_0_0/wi/kernel. Name a checkpoint that"
            " hmoe split wrote, or one trained with hmoe.FeedForwardExperts.separate = True"
        )
    for name, names in experts.items():
        made[name] = _stacked(kept, name, names)
    return made


def _without_slots(variables: Mapping[str, np.ndarray]) -> Variables:
    """Returns all but the optimizer's variables, of which factored ones cannot be split."""
    return {name: value for name, value in variables.items() if not _SLOT.search(name)}


def _parts(name: str) -> tuple[str, str]:
    """Splits the name `a/b/wi/kernel` into `a/b/` and `wi/kernel`."""
    layer, projection, kind = ("/" + name).rsplit("/", 2)
    return (layer + "/")[1:], f"{projection}/{kind}"


def _layers(variables: Variables) -> dict[str, int]:
    """Returns the number of levels of each layer whose first projection has several experts."""
    layers = {}
    for name, value in variables.items():
        found = re.fullmatch(r"((?:.+/)?)wi(_0)?/kernel", name)
        # Ensembles of dense layers have three dimensions too, but no gating.
        if found and value.ndim > 2 and _gating_sizes(variables, found[1]):
            layers[found[1]] = value.ndim - 2
    return layers


def _gating_sizes(variables: Variables, layer: str) -> dict[int, int]:
    """Returns the number of experts at each level, as the gating weights have it.

    The weights are [*experts of outer levels, M, X], so that their number of dimensions gives the
    level.
    """
    sizes = {}
    for name, value in variables.items():
        if name.startswith(layer) and re.fullmatch(r"\w*gating/kernel", name[len(layer) :]):
            sizes[value.ndim - 2] = value.shape[-1]
    return sizes


def _joined(variables: Variables, layer: str, num_levels: int) -> list[str]:
    """Returns the names of the variables of a layer's experts."""
    gating = _gating_sizes(variables, layer)
    # Innermost first, as the variables of experts have them.
    sizes = tuple(gating.get(level, 0) for level in reversed(range(num_levels)))
    found = []
    for name, value in variables.items():
        inside = name[len(layer) :] if name.startswith(layer) else ""
        # Gating weights have one dimension less than those of the experts inside.
        if not re.fullmatch(r"\w+/kernel", inside) or value.ndim != num_levels + 2:
            continue
        found.append(name)
        bias = name[: -len("kernel")] + "bias"
        if bias in variables:
            found.append(bias)
    for name in found:
        if variables[name].shape[:num_levels] != sizes:
            raise ValueError(
                f"{name} is {list(variables[name].shape)}, but the layer's gating weights are for"
                f" {list(sizes)} experts (innermost level first); the checkpoint is damaged, or of"
                " another kind of layer"
            )
    return found


def _stacked(variables: Variables, name: str, names: dict[tuple[int, ...], str]) -> np.ndarray:
    """Stacks the variables `names`, by the experts' numbers, into one [*experts, ...]."""
    depths = {len(numbers) for numbers in names}
    if len(depths) > 1:
        raise ValueError(
            f"{name}: experts are numbered on {' and '.join(map(str, sorted(depths)))} levels, as"
            f" in {min(names.values())} and {max(names.values())}; keep those of one model only"
        )
    sizes = _sizes(variables, name, names)
    first = variables[names[min(names)]]
    rows = []
    for numbers in itertools.product(*map(range, sizes)):
        if numbers not in names:
            layer, variable = _parts(name)
            raise ValueError(
                f"{layer}{expert_scope(numbers[::-1])}/{variable} is missing, of"
                f" {int(np.prod(sizes))} experts; use the whole checkpoint"
            )
        row = variables[names[numbers]]
        if (row.shape, row.dtype) != (first.shape, first.dtype):
            raise ValueError(
                f"{names[numbers]} is {row.dtype} {list(row.shape)}, but"
                f" {names[min(names)]} is {first.dtype} {list(first.shape)}; experts of one layer"
                " have one shape and type"
            )
        rows.append(row)
    return np.stack(rows).reshape(sizes + first.shape)


def _sizes(variables: Variables, name: str, names: dict[tuple[int, ...], str]) -> tuple[int, ...]:
    """Returns the number of experts at each level, innermost first as in tensors."""
    gating = _gating_sizes(variables, _parts(name)[0])
    sizes = []
    num_levels = len(min(names))
    for axis in range(num_levels):
        level = num_levels - 1 - axis
        largest = max(names, key=lambda numbers: numbers[axis])
        sizes.append(gating.get(level, largest[axis] + 1))
        if largest[axis] >= sizes[-1]:
            raise ValueError(
                f"{names[largest]} is one expert too many: the layer's gating weights are for"
                f" {sizes[-1]} experts at level {level}; keep those of one model only"
            )
    return tuple(sizes)
