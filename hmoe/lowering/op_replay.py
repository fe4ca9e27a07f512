"""Records the operations that a function builds for one slice, and repeats them for others.

Most of the time that a graph takes to be built is spent in the Python that works out attributes,
axes and shapes. For further slices of the same type and shape these are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeAlias, Union

from hmoe.compat.stack import tf
from hmoe.lowering import function_keys, graph_hooks

# A tensor or a variable of one device, or a number such as its coordinate on the mesh.
Slice: TypeAlias = tf.Tensor
# What a function of slices returns: a tensor, or several.
Outputs: TypeAlias = tf.Tensor

# A tensor that all slices share, or a number: which of a slice's own tensors.
_Input = Union[tf.Tensor, int]  # noqa: UP007 (a wrapped class knows no |)


class Replays:
    """The functions of one mesh and their recordings, while a graph is lowered."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Replayed] = {}

    def of(self, fn: Callable) -> Replayed:
        """Returns one and the same for functions that build the same, and else a new one."""
        meaning = function_keys.meaning(fn)
        if meaning is None:
            return Replayed(fn)
        return self._known.setdefault(meaning, Replayed(fn))


class Replayed:
    """A function of slices that is called once for each kind of slices, and replayed for others.

    It must do nothing but build operations, and the same ones for arguments of the same kind.
    What cannot be replayed (loops, random numbers, results that are no tensors) is built anew.
    """

    def __init__(self, fn: Callable):
        self._fn = fn
        self._recordings: dict[Hashable, _Recording | None] = {}

    def __call__(self, slices: list[Slice]) -> Outputs:
        """Calls the function for the slices of a device, under whichever device is set.

        Args:
          slices: tensors, variables, and whatever else the function takes.

        Returns:
          A tensor or a tuple of them, as the function returns.
        """
        slices = [
            tf.convert_to_tensor(each) if isinstance(each, tf.Variable) else each for each in slices
        ]
        kind = _kind(slices)
        if kind is None:
            return self._fn(*slices)
        if kind not in self._recordings:
            result, self._recordings[kind] = _record(self._fn, slices)
            return result
        recording = self._recordings[kind]
        return self._fn(*slices) if recording is None else recording.replay(slices)


@dataclasses.dataclass(frozen=True)
class _Step:
    """An operation to be repeated."""

    op_type: str
    inputs: list[_Input]
    keywords: dict[str, object]


@dataclasses.dataclass(frozen=True)
class _Recording:
    """The operations that depend on the slices, and where the results are.

    Tensors are numbered: first the slices, then the outputs of each step.
    """

    steps: list[_Step]
    results: list[_Input]
    shapes: list[tf.TensorShape]
    is_tuple: bool

    def replay(self, slices: list[Slice]) -> Outputs:
        """Returns the results for other slices of the same kind."""
        graph = tf.get_default_graph()
        own = list(slices)

        def find(each: _Input) -> Outputs:
            return own[each] if isinstance(each, int) else each

        for step in self.steps:
            inputs = [find(each) for each in step.inputs]
            own += graph_hooks.create(graph, step.op_type, inputs, **step.keywords).outputs
        results = [find(each) for each in self.results]
        for result, shape in zip(results, self.shapes):
            # They differ where the function set a shape that TensorFlow cannot work out.
            if result.shape != shape:
                result.set_shape(shape)
        return tuple(results) if self.is_tuple else results[0]


def _kind(slices: list[Slice]) -> tuple | None:
    """Returns a key of slices with which a function does the same; None: they have no key."""
    first: dict[int, int] = {}
    graph = tf.get_default_graph()
    kinds: list[tuple] = [(graph, *graph_hooks.surroundings(graph))]
    for number, each in enumerate(slices):
        if isinstance(each, (bool, int, float, str)):
            kinds.append((type(each), each))
        elif not isinstance(each, tf.Tensor):
            return None
        elif each.op.type == "Const":
            # Python may have looked at its value.
            kinds.append(("constant", each.name))
        else:
            shape = None if each.shape.rank is None else tuple(each.shape.as_list())
            kinds.append((each.dtype, shape, first.setdefault(id(each), number)))
    return tuple(kinds)


def _record(fn: Callable, slices: list[Slice]) -> tuple[Outputs, _Recording | None]:
    """Calls the function; the recording is None where it cannot be replayed."""
    graph = tf.get_default_graph()
    recorder = _Recorder(graph)
    with graph_hooks.creating(graph, recorder.create):
        result = fn(*slices)
    results = list(result) if isinstance(result, tuple) else [result]
    if not recorder.can_be_replayed or not all(isinstance(each, tf.Tensor) for each in results):
        return result, None
    return result, _recording(slices, recorder.made, results, isinstance(result, tuple))


class _Made(NamedTuple):
    """An operation and what it was made of."""

    op: tf.Operation
    inputs: list[tf.Tensor]
    keywords: dict[str, object]


class _Recorder:
    """Notes the operations that are made.

    Attributes:
      made: in their order.
      can_be_replayed: whether all of them would be the same elsewhere: none has a state of its
        own, and none is ordered, nested or placed otherwise than what is around the first.
    """

    def __init__(self, graph: tf.Graph):
        self.made: list[_Made] = []
        self.can_be_replayed = True
        self._graph = graph
        self._around = graph_hooks.surroundings(graph)
        self._is_within = False

    def create(
        self, create: Callable, op_type: str, inputs: Sequence[tf.Tensor], **keywords: object
    ) -> tf.Operation:
        """Makes an operation, as `graph_hooks.creating` asks for."""
        if self._is_within:
            # A loop takes in what comes from outside by operations of its own; it will do so for
            # repeated operations too.
            return create(op_type, inputs, **keywords)
        self._is_within = True
        try:
            op = create(op_type, inputs, **keywords)
        finally:
            self._is_within = False
        self.made.append(_Made(op, list(inputs), keywords))
        has_state = op.op_def.is_stateful and op_type != "ReadVariableOp"
        if has_state or graph_hooks.surroundings(self._graph) != self._around:
            self.can_be_replayed = False
        return op


def _recording(
    slices: list[Slice],
    made: list[_Made],
    results: list[tf.Tensor],
    is_tuple: bool,
) -> _Recording:
    own = {each.name: number for number, each in enumerate(slices) if isinstance(each, tf.Tensor)}
    count = len(slices)
    steps = []
    for op, given, keywords in made:
        inputs = [own.get(each.name, each) for each in given]
        if not any(isinstance(each, int) for each in inputs):
            # It is the same for all slices, which share it.
            continue
        # A name that ends with a slash would be taken as it is.
        keywords = dict(keywords, name=op.name.rpartition("/")[-1])
        steps.append(_Step(op.type, inputs, keywords))
        for output in op.outputs:
            own[output.name] = count
            count += 1
    return _Recording(
        steps,
        [own.get(each.name, each) for each in results],
        [each.shape for each in results],
        is_tuple,
    )
