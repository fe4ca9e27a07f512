"""Marks the operations of a named-dimension graph with the part of the layer that they belong to.

Whoever counts what a layer costs reads the marks; the layer itself does not.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # the names alone are read where no TensorFlow is loaded
    from hmoe.compat.stack import mtf

EXPERTS, ROUTER, DISPATCH, OTHER = "experts", "router", "dispatch", "other"


class Part(NamedTuple):
    """A part of a mixture layer.

    Attributes:
      name: EXPERTS, ROUTER, DISPATCH, or OTHER for what a layer does beside these.
      level: the name of the level; "" where it belongs to none.
    """

    name: str
    level: str


_parts: weakref.WeakKeyDictionary[mtf.Operation, Part] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def within(graph: mtf.Graph, name: str, level: str = "") -> Iterator[None]:
    """Marks what is added to a graph within the context, unless a context inside this one did.

    Args:
      graph: the graph.
      name: the name of the part.
      level: the name of its level.
    """
    begin = len(graph.operations)
    yield
    for operation in graph.operations[begin:]:
        _parts.setdefault(operation, Part(name, level))


def part_of(operation: mtf.Operation) -> Part | None:
    """Returns the part of a layer that an operation belongs to; None outside of layers."""
    return _parts.get(operation)
