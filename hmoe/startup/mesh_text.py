"""Mesh shapes, layout rules and devices as users write them, read without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from hmoe.startup.suggestions import nearest

# The expert dimension of each level, outermost first; upstream's names, so that its
# layout rules carry over.
ONE_LEVEL = ("experts",)
SEVERAL_LEVELS = ("expert_x", "expert_y", "expert_z")

# Other dimensions of the layer that a layout rule may split.
LAYER_DIMENSIONS = ("outer_batch", "batch", "expert_hidden", "d_ff", "d_model")

# Dimensions of T5's transformers beside those of the mixture layer.
T5_DIMENSIONS = (
    "beam",
    "buckets",
    "d_kv",
    "d_model",
    "d_ff",
    "ensemble",
    "heads",
    "inputs_vocab",
    "kv",
    "length",
    "memory_length",
    "microbatch",
    "num_memory_heads",
    "vocab",
)
DIMENSIONS = (*T5_DIMENSIONS, *LAYER_DIMENSIONS, *ONE_LEVEL, *SEVERAL_LEVELS)

# Dimensions that every T5 has in one tensor: activations, queries, logits, and two weights.
_TENSORS = (
    ("outer_batch", "batch", "length", "d_model"),
    ("outer_batch", "batch", "length", "heads"),
    ("outer_batch", "batch", "length", "vocab"),
    ("heads", "d_model"),
    ("vocab", "d_model"),
)

_DEVICE = re.compile(
    r"(?P<job>/job:[A-Za-z][\w.-]*)?(?P<replica>/replica:\d+)?(?P<task>/task:\d+)?"
    r"(/?(device:)?(?P<kind>cpu|gpu|tpu|xpu)(:(?P<number>\d+|\*))?)?",
    re.IGNORECASE,
)
# What TensorFlow calls the process that it runs in.
_THIS_PROCESS = {"job": "/job:localhost", "replica": "/replica:0", "task": "/task:0"}


def shape(given: object) -> dict[str, int]:
    """Reads a mesh shape.

    Args:
      given: "rows:2;cols:4", or a list of pairs of a name and a size.

    Returns:
      The size of each axis, in order.

    Raises:
      ValueError: it has no such form; the message begins with a verb.
    """
    axes: dict[str, int] = {}
    for name, size in _pairs(given, "a mesh axis, a colon and its size", "'rows:2;cols:4'"):
        number = size
        # Mesh TensorFlow reads sizes of a text, but takes those of a list as they are.
        if isinstance(given, str) and re.fullmatch(r"\d{1,9}", str(size)):
            number = int(str(size))
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"gives the axis {name!r} the size {size!r}; it must be an integer of at least 1"
            )
        if name in axes:
            raise ValueError(f"names the axis {name!r} twice; name each axis once")
        axes[name] = number
    return axes


def rules(given: object) -> list[tuple[str, str]]:
    """Reads layout rules.

    Args:
      given: "outer_batch:rows;batch:cols", or a list of pairs of a dimension and an axis.

    Returns:
      Pairs of a dimension and a mesh axis.

    Raises:
      ValueError: they have no such form; the message begins with a verb.
    """
    expected = "a dimension, a colon and a mesh axis"
    found = _pairs(given, expected, "'batch:cols'")
    for name, axis in found:
        if not isinstance(axis, str):
            raise ValueError(f"has the part {name}:{axis}, which must be {expected}")
    return [(name, str(axis)) for name, axis in found]


def _pairs(given: object, expected: str, example: str) -> list[tuple[str, object]]:
    if isinstance(given, str):
        # As Mesh TensorFlow separates them.
        found: list[list[object]] = [
            list(part.split(":")) for part in re.sub("[,.;]", " ", given).split()
        ]
    elif isinstance(given, (list, tuple)):
        found = [list(each) if isinstance(each, (list, tuple)) else [each] for each in given]
    else:
        raise ValueError(f"must be a text such as {example}")
    pairs: list[tuple[str, object]] = []
    for part in found:
        if len(part) != 2 or not isinstance(part[0], str) or not part[0] or part[1] == "":
            shown = ":".join(map(str, part))
            raise ValueError(
                f"has the part {shown!r}; each part must be {expected}, such as {example}"
            )
        pairs.append((part[0], part[1]))
    return pairs


def check_rules(
    layout: Sequence[tuple[str, str]],
    mesh: Mapping[str, int],
    known_dimensions: Iterable[str],
    *,
    closed: bool = True,
) -> list[str]:
    """Checks that rules name dimensions and mesh axes that exist.

    Args:
      layout: pairs of a dimension and a mesh axis.
      mesh: the size of each mesh axis.
      known_dimensions: every dimension name that the model can have.
      closed: whether the model can have no others; layers of a user's own may have any.

    Returns:
      A sentence for each rule whose dimension is not known, if the model may have others.

    Raises:
      ValueError: a rule can have no effect, or splits a dimension twice.
    """
    known = sorted(set(known_dimensions))
    unknown = [(name, axis) for name, axis in layout if name not in known]
    if closed and unknown:
        name, axis = unknown[0]
        raise ValueError(
            f"layout rule '{name}:{axis}': no tensor has a dimension '{name}'"
            f"{nearest(name, known) or '; known are ' + ', '.join(known)}"
        )
    _check_axes(layout, mesh)
    return [
        f"layout rule '{name}:{axis}': neither T5 nor hmoe has a dimension '{name}', only code of "
        f"your own could{nearest(name, known)}"
        for name, axis in unknown
    ]


def _check_axes(layout: Sequence[tuple[str, str]], mesh: Mapping[str, int]) -> None:
    """Raises ValueError for a rule whose axis the mesh lacks, or that splits a dimension again."""
    seen: dict[str, str] = {}
    for name, axis in layout:
        if axis not in mesh:
            raise ValueError(
                f"layout rule '{name}:{axis}': the mesh has no axis '{axis}'; it has"
                f" {describe(mesh)}. Name one of these, or remove the rule"
            )
        if name in seen:
            raise ValueError(
                f"layout rules '{name}:{seen[name]}' and '{name}:{axis}': a dimension can be"
                " split over one mesh axis only; remove one of the rules"
            )
        seen[name] = axis


def check_tensors(layout: Sequence[tuple[str, str]], mesh: Mapping[str, int]) -> None:
    """Raises ValueError if rules split two dimensions over one axis that a T5 has in one tensor."""
    axes = {name: axis for name, axis in layout if axis in mesh}
    for names in _TENSORS:
        check_together(names, axes)


def check_together(names: Iterable[str], axes: Mapping[str, str]) -> None:
    """Raises ValueError if two dimensions of one tensor share a mesh axis.

    Args:
      names: the dimensions of the tensor.
      axes: the mesh axis of each dimension that is split.
    """
    used: dict[str, str] = {}
    for name in names:
        axis = axes.get(name)
        if axis is not None and axis in used:
            raise ValueError(
                f"layout rules '{used[axis]}:{axis}' and '{name}:{axis}': one tensor has both"
                f" dimensions, and mesh axis '{axis}' can split only one of them; give them"
                " different axes"
            )
        if axis is not None:
            used[axis] = name


def describe(mesh: Mapping[str, int]) -> str:
    """Returns the axes of a mesh and their sizes, for messages."""
    if not mesh:
        return "no axes (one device)"
    return ", ".join(f"'{name}' of {size}" for name, size in mesh.items())


def check_device(device: object) -> None:
    """Raises ValueError, with a message that begins with a verb, if this names no device."""
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise ValueError(
            f"has {device!r}, which is no device; give '' for any device, or a name such as "
            "'cpu:0', 'gpu:1' or '/job:worker/task:0/device:CPU:0'"
        )


def job_of(device: str) -> str | None:
    """Returns the part of a device that names another process; None for a device of this one."""
    found = _DEVICE.fullmatch(device)
    others = [
        found[part]
        for part, this in _THIS_PROCESS.items()
        if found and found[part] and found[part].lower() != this
    ]
    return next(iter(others), None)


def number_of(device: str) -> tuple[str, int] | None:
    """Returns kind ("CPU", "GPU", ...) and number of a device, or None where it names no number."""
    found = _DEVICE.fullmatch(device)
    if not found or not found["number"] or found["number"] == "*":
        return None
    return found["kind"].upper(), int(found["number"])
