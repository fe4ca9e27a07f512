"""Which process has which slice of the mesh, so that the inner level stays inside a host.

Processes are numbered host by host. An axis that varies fastest with the number therefore lies
inside a host, as far as a host has enough processes, and the one that varies slowest crosses hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hmoe.startup.mesh_text import ONE_LEVEL, SEVERAL_LEVELS

# Dimensions whose split costs an all-reduce of gradients a step, and nothing in a layer.
_BATCH = frozenset({"outer_batch", "batch", "ensemble"})
# Slowest first: axes of the batch alone, of each level from the outermost, and all others, which
# split weights or activations inside a layer.
_RANKS = {name: 1 + level for level, name in enumerate(SEVERAL_LEVELS)}
_RANKS |= dict.fromkeys(ONE_LEVEL, 1)
_OTHER_RANK = 1 + len(SEVERAL_LEVELS)


class AxisPlace(NamedTuple):
    """Where a mesh axis lies.

    Attributes:
      axis: name of the axis.
      size: its size.
      dimensions: the dimensions that it splits.
      hosts: number of hosts over which the processes along it are spread.
    """

    axis: str
    size: int
    dimensions: tuple[str, ...]
    hosts: int

    @property
    def level(self) -> str | None:
        """The expert dimension that it splits, which names the level; None if it splits none."""
        return next((d for d in self.dimensions if d in (*ONE_LEVEL, *SEVERAL_LEVELS)), None)


def slowest_first(shape: Mapping[str, int], rules: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the axes of a mesh in the order in which the number of a process runs over them.

    Args:
      shape: the size of each axis, by name.
      rules: pairs of a dimension and the axis that it is split over.

    Returns:
      The names of the axes: first the one that varies slowest with the number, last the fastest.
    """
    names = list(shape)
    return sorted(names, key=lambda axis: (_rank(axis, rules), names.index(axis)))


def coordinates(
    number: int, shape: Mapping[str, int], rules: Sequence[tuple[str, str]]
) -> dict[str, int]:
    """Returns where the slice of a process is along each axis, in the order of the shape.

    Args:
      number: the number of the process.
      shape: the size of each axis, by name.
      rules: pairs of a dimension and the axis that it is split over.
    """
    found = {}
    for axis in reversed(slowest_first(shape, rules)):
        number, found[axis] = divmod(number, shape[axis])
    return {axis: found[axis] for axis in shape}


def places(
    shape: Mapping[str, int], rules: Sequence[tuple[str, str]], hosts: Sequence[str]
) -> list[AxisPlace]:
    """Returns where each axis lies when processes run on these hosts.

    Args:
      shape: the size of each axis, by name.
      rules: pairs of a dimension and the axis that it is split over.
      hosts: the host of each process, by its number.
    """
    all_coordinates = [coordinates(number, shape, rules) for number in range(len(hosts))]
    found = []
    for axis, size in shape.items():
        lines: dict[tuple[tuple[str, int], ...], set[str]] = {}
        for where, host in zip(all_coordinates, hosts):
            others = tuple(item for item in where.items() if item[0] != axis)
            lines.setdefault(others, set()).add(host)
        split = tuple(dimension for dimension, of_axis in rules if of_axis == axis)
        found.append(AxisPlace(axis, size, split, max(map(len, lines.values()), default=1)))
    return found


def _rank(axis: str, rules: Sequence[tuple[str, str]]) -> int:
    split = [dimension for dimension, of_axis in rules if of_axis == axis]
    ranks = [_RANKS.get(d, 0 if d in _BATCH else _OTHER_RANK) for d in split]
    return max(ranks, default=0)
