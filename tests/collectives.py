"""Records the collectives that a mesh runs, as its engine is asked for them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from hmoe.compat.stack import mtf

ALL_REDUCE, ALL_GATHER, ALL_TO_ALL, PERMUTE = _KINDS = (
    "allreduce",
    "allconcat",
    "alltoall",
    "receive",
)


class Collective(NamedTuple):
    """One collective.

    Attributes:
      kind: the name of the engine's method.
      axes: names of the mesh axes, sorted.
      shape: shape of the slice that each device puts in.
      size: number of elements that all devices put in together.
    """

    kind: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    size: int


@contextlib.contextmanager
def recorded(engine: type[mtf.MeshImpl]) -> Iterator[list[Collective]]:
    """Yields a list to which every collective of this kind of engine is added.

    Counters of the lowering are written beside the collectives; this sees those that are not
    counted, too.
    """
    found: list[Collective] = []
    with contextlib.ExitStack() as stack:
        for kind in _KINDS:
            method = _recording(kind, getattr(engine, kind), found)
            stack.enter_context(mock.patch.object(engine, kind, method))
        yield found


def _recording(kind: str, method: Callable, found: list[Collective]) -> Callable:
    def record(
        engine: mtf.MeshImpl, x: Any, axis: int | list[int], *more: Any, **named: Any
    ) -> Any:
        numbers = axis if isinstance(axis, list) else [axis]
        axes = sorted(engine.shape.dims[number].name for number in numbers)
        shape = x.to_laid_out_tensor().all_slices[0].shape.as_list()
        size = engine.size * math.prod(shape)
        found.append(Collective(kind, tuple(axes), tuple(shape), size))
        return method(engine, x, axis, *more, **named)

    return record
