"""Keys of functions: equal where two functions build the same operations.

Mesh TensorFlow, and this package, make a new function for every operation: a lambda around a number
or an axis. Python compares functions by identity. A key compares what a function is made of: its
code, and the contents of the variables that it reads from around it.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Hashable, Iterable

from hmoe.compat.stack import mtf, tf

# Whose functions are taken apart. They read nothing that may change between two operations, such as
# Python's random numbers; of a user's functions that is not known.
_PACKAGES = ("hmoe", "mesh_tensorflow")
# Operations of which their functions read a single attribute.
_SCALED = (mtf.ops.ScalarMultiplyOperation, mtf.ops.ScalarAddOperation)


def meaning(fn: Callable) -> Hashable | None:
    """Returns a key that is equal for functions that build the same operations.

    Understood are the functions of TensorFlow, by identity; and functions, methods and
    `functools.partial`s of this package and of Mesh TensorFlow, by their code, their defaults and
    the variables that they read from around them. These may hold numbers, strings, None, dtypes,
    dimensions, shapes, tensors of TensorFlow, mesh implementations, modules, functions that are
    understood, and tuples, lists and the package's frozen dataclasses of such.

    Args:
      fn: a function of slices.

    Returns:
      The key, or None for a function that is not understood: a user's own may read what changes.
    """
    return _Reader().key(fn)


class _Identity:
    """Equal for one and the same object, which it keeps, lest another one gets its place."""

    def __init__(self, value: object):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class _Reader:
    """Takes apart a function and all that it holds.

    Attributes:
      open: identities of what is being taken apart, each of which holds the next.
    """

    def __init__(self) -> None:
        self.open: list[int] = []

    def key(self, value: object) -> tuple | None:
        """Returns the key of a value, or None if it is not understood."""
        if isinstance(value, float):
            # 0.0 == -0.0, which divide differently.
            return (type(value), value.hex())
        if isinstance(value, (bool, int, str, type(None), tf.DType, mtf.Dimension)):
            return (type(value), value)
        if isinstance(value, mtf.Shape):
            return (mtf.Shape, *value.dims)
        if isinstance(value, (tf.Tensor, mtf.MeshImpl, types.ModuleType)) or _is_tensorflow(value):
            return (_Identity(value),)
        if id(value) in self.open:
            # A function that reads itself, for example.
            return None
        self.open.append(id(value))
        try:
            return self._taken_apart(value)
        finally:
            self.open.pop()

    def _taken_apart(self, value: object) -> tuple | None:
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return self._all(type(value), value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._all(types.MethodType, [value.__func__, value.__self__])
        if type(value) is functools.partial:
            named = [
                part for name in sorted(value.keywords) for part in (name, value.keywords[name])
            ]
            return self._all(functools.partial, [value.func, value.args, named])
        if isinstance(value, _SCALED):
            return self._all(type(value), [value._scalar])
        return self._object(value)

    def _function(self, fn: types.FunctionType) -> tuple | None:
        if not _is_of(_PACKAGES, _home(fn)):
            return None
        try:
            cells = [cell.cell_contents for cell in fn.__closure__ or ()]
        except ValueError:
            # A variable that has no value yet.
            return None
        defaults = [fn.__defaults__, *sorted((fn.__kwdefaults__ or {}).items())]
        # Equal code may stand in two modules, whose names differ in meaning.
        return self._all((fn.__code__, _Identity(fn.__globals__)), [*cells, *defaults])

    def _object(self, value: object) -> tuple | None:
        """Returns the key of a class of the packages or of a frozen dataclass of theirs."""
        kind = value if isinstance(value, type) else type(value)
        if not _is_of(_PACKAGES, _home(kind)):
            return None
        if isinstance(value, type):
            return (_Identity(value),)
        if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return None
        return self._all(kind, [getattr(value, each.name) for each in dataclasses.fields(kind)])

    def _all(self, what: object, parts: Iterable[object]) -> tuple | None:
        keys = [self.key(each) for each in parts]
        return None if None in keys else (what, *keys)


def _is_tensorflow(value: object) -> bool:
    """Returns whether a value is a function of TensorFlow, such as `tf.exp`."""
    return callable(value) and _is_of(("tensorflow",), _home(value))


def _home(value: object) -> str | None:
    """Returns the name of the module in which a function or class was written."""
    if isinstance(value, types.FunctionType):
        # `functools.wraps` copies `__module__` onto a user's wrapper, but not this.
        return value.__globals__.get("__name__")
    return getattr(value, "__module__", None)


def _is_of(packages: tuple[str, ...], module: str | None) -> bool:
    return str(module).partition(".")[0] in packages
