"""Which functions build the same operations: Mesh TensorFlow makes new ones for every operation."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable
from typing import Any

from hmoe.compat.stack import mtf, tf

# Operations whose functions read but one thing of them.
_SCALED = (mtf.ops.ScalarMultiplyOperation, mtf.ops.ScalarAddOperation)


def meaning(fn: Callable) -> Hashable | None:
    """Equal for functions that build the same operations for the same slices of one mesh.

    Args:
      fn: a function of slices.

    Returns:
      None for a function of which that is not known: a user's own may read what changes, such as
      random numbers of Python's.
    """
    if _is_of("tensorflow", fn):
        return fn
    return _contents(fn)


def _is_of(package: str, fn: Callable) -> bool:
    return str(getattr(fn, "__module__", "")).startswith(package + ".")


def _contents(value: Any) -> tuple | None:
    """What a function of Mesh TensorFlow is made of, or reads from around it; None: unknown."""
    if isinstance(value, (bool, int, float, str, type(None), tf.DType, mtf.Dimension)):
        return (type(value), value)
    if isinstance(value, (tf.Tensor, mtf.MeshImpl)):
        return (id(value),)
    if isinstance(value, mtf.Shape):
        return (mtf.Shape, *value.dims)
    if isinstance(value, (list, tuple)):
        return _all_known(type(value), value)
    if isinstance(value, _SCALED):
        return _all_known(type(value), [value._scalar])
    if isinstance(value, types.FunctionType) and _is_of("mesh_tensorflow", value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return _all_known(value.__code__, [*cells, *(value.__defaults__ or ())])
    return None


def _all_known(what: Any, parts: Any) -> tuple | None:
    contents = [_contents(each) for each in parts]
    return None if None in contents else (what, *contents)
