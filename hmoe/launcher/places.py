"""Which axes of the mesh lie inside a host and which cross hosts, for the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hmoe.startup import mesh_order
from hmoe.startup.mesh_order import AxisPlace
from hmoe.startup.mesh_text import SEVERAL_LEVELS


def lines(
    shape: Mapping[str, int], rules: Sequence[tuple[str, str]], hosts: Sequence[str]
) -> list[str]:
    """Returns a line for each mesh axis of more than one slice, and warnings.

    Args:
      shape: the size of each axis, by name.
      rules: pairs of a dimension and the axis that it is split over.
      hosts: the host of each process, by its number.
    """
    found = [place for place in mesh_order.places(shape, rules, hosts) if place.size > 1]
    said = [_line(place) for place in found]
    levels = [each for each in SEVERAL_LEVELS if each in dict(rules)]
    inner = levels[-1] if len(levels) > 1 else None
    for place in found:
        if inner in place.dimensions and place.hosts > 1:
            said.append(_warning(place, str(inner), hosts))
    return said


def _line(place: AxisPlace) -> str:
    split = ", ".join(place.dimensions) or "nothing"
    where = f"crosses {place.hosts} hosts" if place.hosts > 1 else "lies inside a host"
    return f"Mesh axis {place.axis!r} of {place.size} ({split}) {where}"


def _warning(place: AxisPlace, inner: str, hosts: Sequence[str]) -> str:
    per_host = max(map(list(hosts).count, set(hosts)))
    return (
        f"Warning: the inner level's exchange crosses hosts: {inner} is split over {place.axis!r} "
        f"of {place.size}, which {per_host} process{'es' * (per_host != 1)} on a host cannot hold; "
        "split it over a smaller axis, or run more processes on each host"
    )
