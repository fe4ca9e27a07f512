"""Which exchanges between processes are sent together, and in which order.

An exchange costs a round of messages, whatever its size, and a training step has hundreds of small
ones: gradients of norms, sums of metrics, norms of the optimizer. Those that go to the same
processes and do not wait for one another can share their messages.

This module knows no TensorFlow: a graph is a list that says which operations each one waits for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

# Bytes that an exchange off the path of the tokens is filled up to. Larger ones gain nothing, and
# begin later: the first waits for the whole backward pass.
BUCKET_BYTES = 16 * 2**20


class Exchange(NamedTuple):
    """An exchange of one tensor.

    Attributes:
      source: number of the operation that makes what is sent.
      result: number of the operation that passes on what is received.
      alike: equal for exchanges that may share their messages: kind, processes and type.
      may_wait: whether it is off the path of the tokens, as all-reduces and all-gathers are.
      size: bytes.
    """

    source: int
    result: int
    alike: Hashable
    may_wait: bool
    size: int


# For each operation of a graph the numbers of those that it waits for. Those of loops may have
# higher numbers than the operation itself.
Graph = Sequence[Sequence[int]]
# Exchanges that are sent together, by their places in the list of all.
Group = list[int]


def plan(graph: Graph, exchanges: Sequence[Exchange]) -> list[Group]:
    """Groups exchanges, and puts the groups in an order in which none waits for a later one.

    All-to-alls share messages if the same number of all-to-alls lies before them on the longest
    path: then none of them can wait for another. They stand on the path of the tokens, so each goes
    as soon as it can, unless nobody needs it so soon. All-reduces and all-gathers share messages if
    the same number of them lies before them, however many all-to-alls do: gradients of all layers,
    which nobody waits for but the optimizer, go together, in the order of the backward pass, in
    buckets.

    Args:
      graph: the operations.
      exchanges: the exchanges; the result of each waits for its source, which the graph need not
        say.

    Returns:
      The groups, each with its exchanges in the order of their sources.
    """
    alone = [[number] for number in range(len(exchanges))]
    depths = _depths(graph, exchanges, alone, lambda exchange: not exchange.may_wait)
    groups = _at_once(graph, exchanges, depths)
    waiting = [[n] for n, exchange in enumerate(exchanges) if exchange.may_wait]
    depths = _depths(graph, exchanges, [*groups, *waiting], lambda exchange: exchange.may_wait)
    for group in _grouped(exchanges, depths):
        groups += _buckets(exchanges, group)
    return _ordered(graph, exchanges, groups)


def needed(graph: Graph, exchanges: Sequence[Exchange], roots: Sequence[int]) -> list[bool]:
    """Returns for each exchange whether one of the operations `roots` waits for it."""
    sources = {exchange.result: exchange.source for exchange in exchanges}
    found, waiting = set(roots), list(roots)
    while waiting:
        number = waiting.pop()
        before = [*graph[number], *([sources[number]] if number in sources else [])]
        waiting += [each for each in before if each not in found]
        found.update(before)
    return [exchange.result in found for exchange in exchanges]


def _depths(
    graph: Graph,
    exchanges: Sequence[Exchange],
    groups: Sequence[Group],
    counts: Callable[[Exchange], bool],
) -> list[int]:
    """Returns how many exchanges that count lie before each operation, on the longest path."""
    sources = {exchanges[n].result: [exchanges[m].source for m in g] for g in groups for n in g}
    counted = {exchange.result for exchange in exchanges if counts(exchange)}

    def depth(number: int, found: list[int]) -> int:
        before = max((found[each] for each in graph[number]), default=0)
        if number in sources:
            before = max(before, *(found[each] for each in sources[number]))
        return before + (number in counted)

    return _until_stable(range(len(graph)), depth, 0)


def _until_stable(order: range, value: Callable[[int, list[int]], int], start: int) -> list[int]:
    """Computes a value of each operation from those of others until nothing changes."""
    found = [start] * len(order)
    changes = True
    while changes:
        changes = False
        for number in order:
            new = value(number, found)
            if new != found[number]:
                found[number], changes = new, True
    return found


def _at_once(graph: Graph, exchanges: Sequence[Exchange], depths: Sequence[int]) -> list[Group]:
    """Groups the exchanges on the path of the tokens by their depths.

    One that no exchange of the next depths waits for goes with the next that is alike, if there is
    one: numbers about tokens go back with the tokens.
    """
    latest = _latest(graph, exchanges, depths)
    by_key: dict[Hashable, dict[int, Group]] = {}
    numbers = [n for n, exchange in enumerate(exchanges) if not exchange.may_wait]
    # Those that cannot be put off first, so that others find them.
    for number in sorted(numbers, key=lambda n: latest[n] - depths[exchanges[n].result]):
        depth = depths[exchanges[number].result]
        found = by_key.setdefault(exchanges[number].alike, {})
        later = [each for each in found if depth <= each <= latest[number]]
        found.setdefault(min(later, default=depth), []).append(number)
    return _in_order(exchanges, [group for found in by_key.values() for group in found.values()])


def _latest(graph: Graph, exchanges: Sequence[Exchange], depths: Sequence[int]) -> list[int]:
    """Returns the depth that each exchange may be put off to, on the path of the tokens."""
    consumers: list[list[int]] = [[] for _ in graph]
    for number, before in enumerate(graph):
        for each in before:
            consumers[each].append(number)
    at_source: dict[int, list[Exchange]] = {}
    for exchange in exchanges:
        at_source.setdefault(exchange.source, []).append(exchange)

    def limit(number: int, found: list[int]) -> int:
        limits = [found[each] for each in consumers[number]]
        for exchange in at_source.get(number, ()):
            own = depths[exchange.result] - 1
            limits.append(found[exchange.result] if exchange.may_wait else own)
        return min(limits, default=len(exchanges))

    found = _until_stable(range(len(graph) - 1, -1, -1), limit, len(exchanges))
    return [found[exchange.result] for exchange in exchanges]


def _grouped(exchanges: Sequence[Exchange], depths: Sequence[int]) -> list[Group]:
    """Groups the exchanges off the path of the tokens by their depths."""
    groups: dict[Hashable, Group] = {}
    for number, exchange in enumerate(exchanges):
        if exchange.may_wait:
            groups.setdefault((exchange.alike, depths[exchange.result]), []).append(number)
    return _in_order(exchanges, groups.values())


def _in_order(exchanges: Sequence[Exchange], groups: Iterable[Group]) -> list[Group]:
    """Sorts the exchanges of each group by their sources."""
    return [sorted(group, key=lambda n: exchanges[n].source) for group in groups]


def _buckets(exchanges: Sequence[Exchange], group: Group) -> list[Group]:
    """Cuts a group where it would grow too large."""
    buckets: list[Group] = []
    room = 0
    for number in group:
        room -= exchanges[number].size
        if room < 0 or not buckets:
            buckets.append([])
            room = BUCKET_BYTES - exchanges[number].size
        buckets[-1].append(number)
    return buckets


def _ordered(graph: Graph, exchanges: Sequence[Exchange], groups: list[Group]) -> list[Group]:
    """Orders groups by what waits for what, and then by when they can be sent."""
    before = _groups_before(graph, exchanges, groups)
    ready = [max(exchanges[n].source for n in group) for group in groups]
    waiting = {place: before[place].bit_count() for place in range(len(groups))}
    free = [(ready[place], place) for place, count in waiting.items() if not count]
    heapq.heapify(free)
    ordered = []
    while free:
        _, done = heapq.heappop(free)
        ordered.append(groups[done])
        for place in range(len(groups)):
            if before[place] >> done & 1:
                waiting[place] -= 1
                if not waiting[place]:
                    heapq.heappush(free, (ready[place], place))
    return ordered


def _groups_before(
    graph: Graph, exchanges: Sequence[Exchange], groups: Sequence[Group]
) -> list[int]:
    """Returns for each group those that it waits for, as bits of a number."""
    place_of = {exchanges[n].result: place for place, group in enumerate(groups) for n in group}

    def of_group(place: int, found: list[int]) -> int:
        bits = 0
        for number in groups[place]:
            bits |= found[exchanges[number].source]
        return bits

    def before(number: int, found: list[int]) -> int:
        bits = found[number]
        for each in graph[number]:
            bits |= found[each]
        if number in place_of:
            bits |= of_group(place_of[number], found) | 1 << place_of[number]
        return bits

    found = _until_stable(range(len(graph)), before, 0)
    return [of_group(place, found) for place in range(len(groups))]
