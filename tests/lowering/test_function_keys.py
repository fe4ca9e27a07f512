"""Functions that are known to build the same operations, and those of which nothing is known."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import types
from collections.abc import Callable
from typing import Any

import pytest

from hmoe import compat

compat.behave_like_v1()

from hmoe.compat.stack import mtf, tf  # noqa: E402
from hmoe.lowering.function_keys import meaning  # noqa: E402
from hmoe.lowering.placement import SharingPlacement  # noqa: E402
from hmoe.mesh import local_ops  # noqa: E402

A = mtf.Dimension("a", 2)
ENGINES = [SharingPlacement(mtf.Shape([]), mtf.LayoutRules([]), [""]) for _ in range(2)]
IN_PACKAGE = "hmoe.routing.somewhere"
_GLOBALS = {**globals(), "__name__": IN_PACKAGE}


def in_package(fn: Any) -> Any:
    """The function or class as if it stood in a module of this package."""
    if isinstance(fn, type):
        fn.__module__ = IN_PACKAGE
        return fn
    made = types.FunctionType(fn.__code__, _GLOBALS, fn.__name__, fn.__defaults__, fn.__closure__)
    made.__kwdefaults__ = fn.__kwdefaults__
    return made


def around(value: Any) -> Callable:
    """A new function of this package that reads a variable from around it."""
    return in_package(lambda x: (x, value))


@in_package
@dataclasses.dataclass(frozen=True)
class Sizes:
    """As the package hands sizes around."""

    slots: int
    names: tuple[str, ...] = ()

    @in_package
    def add(self, x: Any) -> Any:
        """A method."""
        return x + self.slots

    @staticmethod
    @in_package
    def double(x: Any) -> Any:
        """A static method."""
        return 2 * x


@in_package
@dataclasses.dataclass(frozen=True)
class Called:
    """A value that can be called."""

    function: Callable

    def __call__(self, x: Any) -> Any:
        """Calls the function."""
        return self.function(x)


@in_package
@dataclasses.dataclass
class Changing:
    """A dataclass whose fields can be set."""

    slots: int


class Own(Sizes):
    """A user's, by inheritance."""


def einsum(*sizes: int, engine: Any = ENGINES[0]) -> Callable:
    """What Mesh TensorFlow does for an einsum [a, c] of [a, b] and [b, c]."""
    a, b, c = (mtf.Dimension(name, size) for name, size in zip("abc", sizes))
    return mtf.ops._einsum_helper(
        [mtf.Shape([a, b]), mtf.Shape([b, c])], mtf.Shape([a, c]), engine
    )[0]


def scaled(by: Any, kind: type = mtf.ops.ScalarMultiplyOperation) -> Callable:
    """What Mesh TensorFlow does to multiply by a number or a tensor of TensorFlow."""
    found = []

    class Engine:
        def slicewise(self, fn: Callable, x: Any) -> None:
            found.append(fn)

    class Lowering:
        tensors: dict = {}

        def mesh_impl(self, operation: Any) -> Engine:
            return Engine()

        def set_tensor_lowering(self, *args: Any) -> None:
            pass

    x = mtf.import_tf_tensor(mtf.Mesh(mtf.Graph(), "mesh"), tf.zeros([2]), mtf.Shape([A]))
    Lowering.tensors[x] = None
    kind(x, by).lower(Lowering())
    return found[0]


@pytest.fixture(autouse=True)
def graph() -> Any:
    with tf.Graph().as_default() as graph:
        yield graph


def test_functions_of_mesh_tensorflow_are_known_by_what_they_read() -> None:
    assert einsum(2, 3, 4) is not einsum(2, 3, 4)
    assert meaning(einsum(2, 3, 4)) == meaning(einsum(2, 3, 4))
    others = [
        meaning(each)
        for each in (einsum(2, 3, 4), einsum(2, 3, 5), einsum(2, 3, 4, engine=ENGINES[1]))
    ]
    assert None not in others
    assert len(set(others)) == 3


def test_numbers_by_which_they_multiply_and_add() -> None:
    rate = tf.constant(0.5)
    add = mtf.ops.ScalarAddOperation
    different = [
        scaled(0.5),
        scaled(2.0),
        scaled(2),
        scaled(rate),
        scaled(tf.constant(0.5)),
        scaled(0.5, add),
    ]
    meanings = [meaning(each) for each in different]
    assert None not in meanings
    assert len(set(meanings)) == len(meanings)
    assert meaning(scaled(0.5)) == meanings[0]
    assert meaning(scaled(rate)) == meanings[3]


def test_functions_of_tensorflow_and_values_that_are_called() -> None:
    assert meaning(tf.exp) == meaning(tf.exp) != meaning(tf.square)
    different = [Called(tf.exp), Called(tf.square), Called(around(1)), Called(around(2))]
    meanings = [meaning(each) for each in different]
    assert None not in meanings
    assert len(set(meanings)) == len(different)
    assert meaning(Called(tf.exp)) == meanings[0]
    assert meaning(Called(around(1))) == meanings[2]


#: Contents of a variable around a function, each of which is a different function.
CONTENTS: dict[str, Callable[[], Any]] = {
    "1": lambda: 1,
    "2": lambda: 2,
    "1.0": lambda: 1.0,
    "True": lambda: True,
    "0.0": lambda: 0.0,
    "-0.0": lambda: -0.0,
    "nan": lambda: math.nan * 1,
    "a string": lambda: "first",
    "None": lambda: None,
    "float32": lambda: tf.float32,
    "bfloat16": lambda: tf.bfloat16,
    "a dimension": lambda: mtf.Dimension("a", 2),
    "another dimension": lambda: mtf.Dimension("a", 3),
    "a shape": lambda: mtf.Shape([A]),
    "no shape": lambda: mtf.Shape([]),
    "a tuple": lambda: (1, "a"),
    "a list": lambda: [1, "a"],
    "a tuple of a tuple": lambda: ((1, "a"),),
    "a mesh": lambda: ENGINES[0],
    "another mesh": lambda: ENGINES[1],
    "a module": lambda: local_ops,
    "another module": lambda: math,
    "a function of TensorFlow": lambda: tf.greater,
    "another function of TensorFlow": lambda: tf.less,
    "a function": lambda: local_ops.where_real,
    "another function": lambda: local_ops.unstacked,
    "a function around a number": lambda: around(1),
    "a function around another number": lambda: around(2),
    "a class": lambda: Sizes,
    "a frozen dataclass": lambda: Sizes(1, ("a",)),
    "another frozen dataclass": lambda: Sizes(1, ("b",)),
    "a method": lambda: Sizes(1).add,
    "a method of another": lambda: Sizes(2).add,
    "a static method": lambda: Sizes.double,
    "a function of a part": lambda: functools.partial(around(1), 1),
    "a function of another part": lambda: functools.partial(around(1), 2),
    "a function of a named part": lambda: functools.partial(around(1), x=1),
    "a function of TensorFlow of a part": lambda: functools.partial(tf.pow, 2.0),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_functions_around_equal_contents_are_equal(name: str) -> None:
    one, other = around(CONTENTS[name]()), around(CONTENTS[name]())
    assert one is not other
    assert meaning(one) is not None
    assert meaning(one) == meaning(other)
    assert hash(meaning(one)) == hash(meaning(other))


def test_functions_around_other_contents_are_different() -> None:
    assert len({meaning(around(make())) for make in CONTENTS.values()}) == len(CONTENTS)


def test_methods_and_parts_are_known_as_they_are() -> None:
    functions: list[Callable[[], Callable]] = [
        lambda: Sizes(1).add,
        lambda: Sizes(2).add,
        lambda: Sizes.double,
        lambda: functools.partial(Sizes(1).add, 3),
        lambda: functools.partial(tf.reduce_sum, axis=0),
        lambda: functools.partial(tf.reduce_sum, axis=1),
    ]
    meanings = [meaning(make()) for make in functions]
    assert None not in meanings
    assert meanings == [meaning(make()) for make in functions]
    assert len(set(meanings)) == len(functions)


def test_defaults_and_code_count() -> None:
    different = [
        in_package(lambda x, by=1: x * by),
        in_package(lambda x, by=2: x * by),
        in_package(lambda x, *, by=1: x * by),
        in_package(lambda x, *, by=2: x * by),
        in_package(lambda x, by=1: x + by),
    ]
    meanings = [meaning(each) for each in different]
    assert None not in meanings
    assert len(set(meanings)) == len(different)


def test_equal_code_of_two_modules_is_different() -> None:
    def one(x: Any) -> Any:
        return softmax(x)  # type: ignore[name-defined]  # noqa: F821

    other = types.FunctionType(one.__code__, {"__name__": "hmoe.elsewhere"})
    assert None not in (meaning(in_package(one)), meaning(other))
    assert meaning(in_package(one)) != meaning(other)


def _own(x: Any) -> Any:
    return x


@functools.wraps(tf.exp)
def _own_around_tensorflow(x: Any) -> Any:
    return tf.exp(x) * random.random()


#: Functions that may read what changes.
UNKNOWN: dict[str, Callable[[], Any]] = {
    "a user's": lambda: _own,
    "a user's lambda": lambda: lambda x: x,
    "a user's that takes the name of another": lambda: _own_around_tensorflow,
    "a part of a user's": lambda: functools.partial(_own, 2.0),
    "a part with a user's": lambda: functools.partial(tf.map_fn, _own),
    "a method of Python's": lambda: A.__eq__,
    "a method of a user's subclass": lambda: Own(1).add,
    "a method of what may change": lambda: types.MethodType(around(1), Changing(1)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_nothing_is_known_of_a_user_s_functions(name: str) -> None:
    assert meaning(UNKNOWN[name]()) is None
    assert meaning(around(UNKNOWN[name]())) is None
    assert meaning(around([1, (UNKNOWN[name](),)])) is None


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, {1}, object(), Changing(1), Own(1), Sizes(1, [_own]), range(3)],  # type: ignore[arg-type]
    ids=[
        "a dict",
        "a set",
        "an object",
        "what may change",
        "a user's",
        "holds a user's",
        "a range",
    ],
)
def test_nothing_is_known_of_functions_around_other_contents(value: Any) -> None:
    assert meaning(around(value)) is None


def test_nothing_is_known_of_a_function_around_itself_or_what_is_not_there_yet() -> None:
    def of_itself(x: Any) -> Any:
        return of_itself

    of_itself = in_package(of_itself)
    assert meaning(of_itself) is None
    early = in_package(lambda x: later)
    assert meaning(early) is None
    later = 1
    assert meaning(early) is not None


def test_one_value_twice_is_no_circle() -> None:
    sizes = Sizes(1)
    assert meaning(around((sizes, sizes))) == meaning(around((Sizes(1), Sizes(1)))) is not None
