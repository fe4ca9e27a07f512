"""Mesh shape, layout rules and devices of a configuration, each alone and together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from hmoe.startup import mesh_text
from hmoe.startup.gin_checks import master
from hmoe.startup.gin_reading import Reading, Resolved, is_symbolic

T = TypeVar("T")

_RUN = "mesh_tensorflow.transformer.utils.run"


def check(reading: Reading, *, has_experts: bool, closed: bool, has_devices: bool) -> None:
    """Raises ValueError for a mesh, rules or devices that are malformed or do not fit together.

    Args:
      reading: the configuration.
      has_experts: whether the model has layers of hmoe. Without them, rules for dimensions and axes
        that are not there have no effect, and T5's defaults have some.
      closed: whether no module of the user's own can give the model dimensions of other names.
      has_devices: whether the run has use for `mesh_devices`, unlike one on a TPU or of many
        processes.
    """
    mesh, layout = shape_of(reading), rules_of(reading)
    if mesh is not None and layout is not None:
        _check_rules(reading, mesh, layout, has_experts=has_experts, closed=closed)
    if has_devices:
        _check_devices(reading, mesh)


def shape_of(reading: Reading) -> dict[str, int] | None:
    """Returns the size of each mesh axis; None where gin does not show it.

    Raises:
      ValueError: the mesh shape is malformed.
    """
    return _read(reading, "mesh_shape", mesh_text.shape)


def rules_of(reading: Reading) -> list[tuple[str, str]] | None:
    """Returns pairs of a dimension and the axis that it is split over; None where gin hides them.

    Raises:
      ValueError: the rules are malformed.
    """
    return _read(reading, "layout_rules", mesh_text.rules)


def text_of(shape: Mapping[str, int]) -> str:
    """Returns a mesh shape as users write it, such as "rows:2;cols:4"."""
    return ";".join(f"{axis}:{size}" for axis, size in shape.items())


def named_devices(reading: Reading) -> str | None:
    """Returns where and how `mesh_devices` names devices of some slices, for messages; or None."""
    found = _find(reading, "mesh_devices")
    if found is None or not isinstance(found.value, (list, tuple)) or not any(found.value):
        return None
    return f"{found.place}: {found.name} = {found.value!r}"


def _check_rules(
    reading: Reading,
    mesh: dict[str, int],
    layout: list[tuple[str, str]],
    *,
    has_experts: bool,
    closed: bool,
) -> None:
    own = sorted(pair for pair in layout if pair != ("ensemble", "ensemble"))
    try:
        if has_experts:
            mesh_text.check_rules(own, mesh, mesh_text.DIMENSIONS, closed=closed)
        mesh_text.check_tensors(own, mesh)
    except ValueError as error:
        found = _find(reading, "layout_rules")
        raise ValueError(f"{found.place if found else ''}: {error}") from None


def _find(reading: Reading, argument: str) -> Resolved | None:
    """Returns an argument of `utils.run` that is bound to a literal."""
    binding = reading.bound(f"{_RUN}.{argument}")
    found = reading.resolve(binding) if binding else None
    return None if found is None or is_symbolic(found.value) else found


def _read(reading: Reading, argument: str, parse: Callable[[object], T]) -> T | None:
    found = _find(reading, argument)
    if found is None:
        return None
    try:
        return parse(found.value)
    except ValueError as error:
        raise ValueError(f"{found.place}: {found.name} is {found.value!r}; it {error}") from None


def _check_devices(reading: Reading, mesh: dict[str, int] | None) -> None:
    found = _find(reading, "mesh_devices")
    if found is None or found.value is None:
        return
    where = f"{found.place}: {found.name}"
    devices = found.value
    if not isinstance(devices, (list, tuple)):
        raise ValueError(
            f"{where} is {devices!r}; it must be a list with a device for each slice of the mesh, "
            "such as ['', '']"
        )
    for device in devices:
        try:
            mesh_text.check_device(device)
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
        job = mesh_text.job_of(device)
        if job and reading.literal(master.ADDRESS, "") == "":
            raise ValueError(
                f"{where} has {device!r}, but this process has no {job}; name the address of the "
                f"cluster's server with {master.ADDRESS}, or use '' for this process"
            )
    size = math.prod(mesh.values()) if mesh is not None else len(devices)
    if devices and len(devices) != size:
        shape = _find(reading, "mesh_shape")
        raise ValueError(
            f"{where} has {len(devices)} device{'s' * (len(devices) != 1)}, but the mesh "
            f"{shape.value if shape else ''!r} (utils.run.mesh_shape) has {size} "
            f"slice{'s' * (size != 1)}; name a device for each, such as {size} times '' for one "
            "machine"
        )
