"""Tells the expert layers of a T5 which of their experts to keep, while its model is built.

T5's functions pass layers nothing of hmoe's, so a graph that leaves experts out opens a context,
and layers ask it by their names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar

from hmoe.compat.stack import mtf, tf
from hmoe.layer.kept_experts import import_kept
from hmoe.layer.level import Level

_kept: ContextVar[Mapping[str, Sequence[tf.Tensor]] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def given(kept: Mapping[str, Sequence[tf.Tensor]]) -> Iterator[None]:
    """Leaves experts out of the layers that are built inside.

    Args:
      kept: for each layer, by name, and each of its levels, outermost first, float32
        [outer experts ..., X], 1 for experts that are kept, else 0. Other layers keep all.
    """
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)


def of_layer(name: str, mesh: mtf.Mesh, levels: Sequence[Level]) -> list[mtf.Tensor] | None:
    """Returns the kept experts of a layer, outermost level first; None: it keeps all."""
    kept = _kept.get() or {}
    return import_kept(mesh, levels, kept[name]) if name in kept else None
