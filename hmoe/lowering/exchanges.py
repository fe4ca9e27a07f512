"""The exchanges between the processes of a mesh: TensorFlow's collectives, few and in one order.

All processes must run the same collectives in the same order. While a graph is lowered, an exchange
is only promised; once the graph is whole, `fusion` decides which exchanges share a collective, and
each collective waits for the one before it. In loops, where operations run again and again, each
exchange is a collective at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hmoe.compat.stack import tf
from hmoe.lowering import fusion, graph_hooks
from hmoe.lowering.kinds import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL

# Servers remember the shape behind each number for as long as they live, so that no two collectives
# of a process may share one. Smaller numbers are left to those that are not part of a mesh.
_numbers = itertools.count(1000)

_MERGES = {"SUM": "Add", "MAX": "Max", "MIN": "Min"}
# Types that the collectives do not know, and those that they travel as.
_TRAVEL_AS = {
    ALL_REDUCE: {},
    ALL_TO_ALL: {tf.bool: tf.int32},
    ALL_GATHER: {tf.bool: tf.int32, tf.bfloat16: tf.float32},
}


class Peers(NamedTuple):
    """The processes that exchange something.

    Attributes:
      key: number by which TensorFlow knows them; the same in all of them, and of no others.
      size: how many they are.
      axes: names of the mesh axes along which they differ.
    """

    key: int
    size: int
    axes: tuple[str, ...]


class Traffic(NamedTuple):
    """What a process sends when the graph runs once, loops apart.

    Attributes:
      kind: kind of the collectives.
      axes: names of the mesh axes that they run along.
      collectives: their number.
      tensors: number of tensors that share them.
      size: bytes that a process sends in them.
    """

    kind: str
    axes: tuple[str, ...]
    collectives: int
    tensors: int
    size: int


class _Promise(NamedTuple):
    """An exchange that is to be made of a tensor.

    Attributes:
      kind: its kind.
      peers: the processes.
      merge: for an all-reduce the reduction, else "".
      tensor: what this process sends; the first dimension of an all-to-all has the size of the
        group, and parts of an all-gather are put together along the first.
      result: passes on what is received, once the promise is kept.
    """

    kind: str
    peers: Peers
    merge: str
    tensor: tf.Tensor
    result: tf.Tensor


class Exchanges:
    """Collects the exchanges of a graph.

    Args:
      device: name of the device of this process.
      hint: how TensorFlow is to communicate: "auto", "ring" or "nccl".
    """

    def __init__(self, device: str, hint: str = "auto"):
        self._device = device
        self._hint = hint
        self._promises: list[_Promise] = []
        self._last_in_loop: dict[int, tf.Operation] = {}
        self._lines: list[str] = []
        self._sent: dict[tuple[str, tuple[str, ...]], list[Traffic]] = {}

    def add(self, kind: str, tensor: tf.Tensor, peers: Peers, merge: str = "") -> tf.Tensor:
        """Exchanges a tensor with other processes.

        Args:
          kind: ALL_REDUCE, ALL_TO_ALL or ALL_GATHER.
          tensor: what this process sends; the first dimension of an all-to-all is cut into one part
            for each process, and the parts of an all-gather are joined along the first.
          peers: the processes, more than one.
          merge: for an all-reduce "SUM", "MAX" or "MIN".

        Returns:
          What this process receives.
        """
        loop = graph_hooks.loop(tf.get_default_graph())
        if loop is not None:
            return self._add_in_loop(loop, _Promise(kind, peers, merge, tensor, tensor))
        with tf.device(self._device):
            received = tf.identity(tf.placeholder(tensor.dtype, _received(kind, tensor, peers)))
        self._promises.append(_Promise(kind, peers, merge, tensor, received))
        return received

    def finish(self, roots: Iterable[tf.Tensor | tf.Operation]) -> None:
        """Makes the collectives of all exchanges that were added since the last time.

        Args:
          roots: what sessions will run. Exchanges that it does not wait for are made apart.
        """
        if not self._promises:
            return
        promises, self._promises = self._promises, []
        graph, exchanges, numbers = _described(promises)
        needed = fusion.needed(graph, exchanges, [numbers[_operation(root)] for root in roots])
        used = [number for number, each in enumerate(needed) if each]
        groups = fusion.plan(graph, [exchanges[number] for number in used])
        last = None
        for group in groups:
            shared = [promises[used[number]] for number in group]
            last = self._keep(shared, last)
            self._lines.append(_line(shared))
            self._count(shared)
        for promise, each in zip(promises, needed):
            if not each:
                self._keep([promise], None)

    @property
    def lines(self) -> list[str]:
        """A line for each collective, in order: the same in all processes, or they would wait."""
        return list(self._lines)

    @property
    def traffic(self) -> list[Traffic]:
        """What a process sends, by kind and axes."""
        found = []
        for (kind, axes), each in sorted(self._sent.items()):
            tensors, size = sum(t.tensors for t in each), sum(t.size for t in each)
            found.append(Traffic(kind, axes, len(each), tensors, size))
        return found

    def _add_in_loop(self, loop: int, promise: _Promise) -> tf.Tensor:
        before = self._last_in_loop.get(loop)
        with tf.device(self._device), tf.control_dependencies([before] if before else []):
            received = self._collective(promise, promise.tensor)
        self._last_in_loop[loop] = received.op
        self._lines.append(f"in a loop: {_line([promise])}")
        return received

    def _keep(self, promises: list[_Promise], last: tf.Operation | None) -> tf.Operation:
        """Makes one collective for several promises, after the last one; returns it."""
        first = promises[0]
        with tf.device(self._device):
            joined, divide = _joined(promises)
            with tf.control_dependencies([last] if last is not None else []):
                received = self._collective(first, joined)
            for promise, part in zip(promises, divide(received)):
                graph_hooks.replace_input(promise.result.op, 0, part)
        return received.op

    def _count(self, promises: list[_Promise]) -> None:
        kind, axes = promises[0].kind, promises[0].peers.axes
        size = sum(_bytes_sent(promise) for promise in promises)
        self._sent.setdefault((kind, axes), []).append(Traffic(kind, axes, 1, len(promises), size))

    def _collective(self, promise: _Promise, tensor: tf.Tensor) -> tf.Tensor:
        dtype = tensor.dtype
        arguments = {
            "input": tf.cast(tensor, _travels_as(promise.kind, dtype)),
            "group_size": promise.peers.size,
            "group_key": promise.peers.key,
            "instance_key": next(_numbers),
            "ordering_token": [],
            "communication_hint": self._hint,
        }
        if promise.kind == ALL_REDUCE:
            merge = _MERGES[promise.merge]
            received = tf.raw_ops.CollectiveReduceV2(merge_op=merge, final_op="Id", **arguments)
        elif promise.kind == ALL_TO_ALL:
            received = tf.raw_ops.CollectiveAllToAllV2(**arguments)
        else:
            received = tf.raw_ops.CollectiveGatherV2(**arguments)
        received = tf.ensure_shape(received, _received(promise.kind, tensor, promise.peers))
        return tf.cast(received, dtype)


def _operation(root: tf.Tensor | tf.Operation) -> tf.Operation:
    return root if isinstance(root, tf.Operation) else root.op


def _described(
    promises: list[_Promise],
) -> tuple[fusion.Graph, list[fusion.Exchange], dict[tf.Operation, int]]:
    """Describes the default graph and its promises for `fusion`; operations become numbers."""
    operations = tf.get_default_graph().get_operations()
    numbers = {operation: number for number, operation in enumerate(operations)}
    graph = [
        [numbers[each.op] for each in operation.inputs]
        + [numbers[each] for each in operation.control_inputs]
        for operation in operations
    ]
    exchanges = [
        fusion.Exchange(
            source=numbers[promise.tensor.op],
            result=numbers[promise.result.op],
            alike=(promise.kind, promise.peers, promise.merge, promise.tensor.dtype),
            may_wait=promise.kind != ALL_TO_ALL,
            size=promise.tensor.shape.num_elements() * promise.tensor.dtype.size,
        )
        for promise in promises
    ]
    return graph, exchanges, numbers


def _joined(
    promises: list[_Promise],
) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
    """Joins what several promises send, and returns how to divide what is received."""
    if len(promises) == 1:
        return promises[0].tensor, lambda received: [received]
    # An all-to-all sends a part to each process, [processes, ...], and an all-gather joins what all
    # send, [1, ...], along the first dimension: what comes of either is [processes, ...].
    first = promises[0]
    rows = {ALL_TO_ALL: [first.peers.size], ALL_GATHER: [1], ALL_REDUCE: []}[first.kind]
    flat = [tf.reshape(promise.tensor, [*rows, -1]) for promise in promises]
    sizes = [each.shape.as_list()[-1] for each in flat]

    def divide(received: tf.Tensor) -> list[tf.Tensor]:
        parts = tf.split(received, sizes, len(rows))
        return [tf.reshape(part, promise.result.shape) for part, promise in zip(parts, promises)]

    return tf.concat(flat, len(rows)), divide


def _received(kind: str, tensor: tf.Tensor, peers: Peers) -> list[int]:
    """Returns the shape of what is received for a tensor."""
    shape = tensor.shape.as_list()
    return [shape[0] * peers.size, *shape[1:]] if kind == ALL_GATHER else shape


def _travels_as(kind: str, dtype: tf.DType) -> tf.DType:
    return _TRAVEL_AS[kind].get(dtype, dtype)


def _bytes_sent(promise: _Promise) -> int:
    """Returns the bytes that this process sends to others."""
    dtype = _travels_as(promise.kind, promise.tensor.dtype)
    size = promise.tensor.shape.num_elements() * dtype.size
    n = promise.peers.size
    # A ring passes each part on n - 1 times, and an all-reduce goes round twice.
    rounds = {ALL_REDUCE: 2 * (n - 1) / n, ALL_TO_ALL: (n - 1) / n, ALL_GATHER: n - 1}
    return round(size * rounds[promise.kind])


def _line(promises: list[_Promise]) -> str:
    first = promises[0]
    shapes = ", ".join(f"{p.tensor.dtype.name}{p.tensor.shape.as_list()}" for p in promises)
    along = ", ".join(first.peers.axes)
    return f"{first.kind} along {along} of {shapes} ({first.tensor.op.name})"
