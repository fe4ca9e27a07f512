"""Exchanges that share messages: in an order that every process can keep, whatever the graph."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from hmoe.lowering import fusion
from hmoe.lowering.fusion import Exchange, Graph

TOKENS, WEIGHTS, ROWS = ("all-to-all", "cols"), ("all-reduce", "all"), ("all-reduce", "rows")
INNER = ("all-to-all", "rows")
MAY_WAIT = {TOKENS: False, INNER: False, WEIGHTS: True, ROWS: True}


def arrives(
    graph: Graph, exchanges: Sequence[Exchange], plan: Sequence[Sequence[int]]
) -> list[bool]:
    """Runs a graph as a process does, which sends each group when the one before it is back.

    Args:
      graph: the operations.
      exchanges: the exchanges.
      plan: groups of exchanges, in order.

    Returns:
      For each operation whether it has run in the end.

    Raises:
      AssertionError: a group has nothing to send until a later one has come back.
    """
    sources = {exchange.result: exchange.source for exchange in exchanges}
    received: set[int] = set()
    for place, group in enumerate(plan):
        done = _run(graph, sources, received)
        for number in group:
            assert done[exchanges[number].source], f"group {place} waits for a later one"
        received |= {exchanges[number].result for number in group}
    return _run(graph, sources, received)


def _run(graph: Graph, sources: dict[int, int], received: set[int]) -> list[bool]:
    """Runs what can run when these results of exchanges have been received."""
    done: list[bool] = []
    for number, before in enumerate(graph):
        done.append(all(done[each] for each in before))
        if number in sources:
            done[-1] &= number in received and done[sources[number]]
    return done


@st.composite
def graphs(draw: Any) -> tuple[Graph, list[Exchange]]:
    """Draws a graph and exchanges between its operations."""
    graph: list[list[int]] = [[]]
    exchanges = []
    for number in range(1, draw(st.integers(2, 36))):
        graph.append(draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True)))
        # The result of an exchange has no input before the exchange is made.
        if draw(st.booleans()):
            graph[-1] = []
            alike = draw(st.sampled_from(list(MAY_WAIT)))
            size = draw(st.integers(1, fusion.BUCKET_BYTES + 2))
            source = draw(st.integers(0, number - 1))
            exchanges.append(Exchange(source, number, alike, MAY_WAIT[alike], size))
    return graph, draw(st.permutations(exchanges))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(graphs())
def test_any_plan_runs_to_its_end_without_waiting(
    drawn: tuple[Graph, list[Exchange]],
) -> None:
    graph, exchanges = drawn
    plan = fusion.plan(graph, exchanges)
    assert all(arrives(graph, exchanges, plan))
    assert sorted(number for group in plan for number in group) == list(range(len(exchanges)))
    for group in plan:
        members = [exchanges[number] for number in group]
        assert len({member.alike for member in members}) == 1
        assert [m.source for m in members] == sorted(m.source for m in members)
        if members[0].may_wait and len(members) > 1:
            assert sum(member.size for member in members) <= fusion.BUCKET_BYTES


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(graphs(), st.data())
def test_plans_of_what_is_needed_bring_the_roots(
    drawn: tuple[Graph, list[Exchange]], data: st.DataObject
) -> None:
    graph, exchanges = drawn
    roots = data.draw(st.lists(st.integers(0, len(graph) - 1), max_size=3))
    needed = fusion.needed(graph, exchanges, roots)
    used = [number for number, wanted in enumerate(needed) if wanted]
    plan = fusion.plan(graph, [exchanges[number] for number in used])
    done = arrives(graph, exchanges, [[used[number] for number in group] for group in plan])
    assert all(done[root] for root in roots)
    # None is needless: without it a root would wait for ever.
    sources = {exchange.result: exchange.source for exchange in exchanges}
    for left_out in used:
        received = {exchanges[number].result for number in used if number != left_out}
        done = _run(graph, sources, received)
        assert not all(done[root] for root in roots)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.lists(st.tuples(st.sampled_from(list(MAY_WAIT)), st.integers(1, 9)), max_size=20)
)
def test_what_waits_for_nothing_goes_together(sizes: list[tuple[Hashable, int]]) -> None:
    graph: Graph = [[] for _ in range(2 * len(sizes))]
    exchanges = [
        Exchange(2 * number, 2 * number + 1, alike, MAY_WAIT[alike], size)
        for number, (alike, size) in enumerate(sizes)
    ]
    assert len(fusion.plan(graph, exchanges)) == len({alike for alike, _ in sizes})


class Listed:
    """A graph with names, written by hand."""

    def __init__(self) -> None:
        self.graph: list[list[int]] = []
        self.exchanges: list[Exchange] = []
        self.names: list[str] = []

    def operation(self, *before: int) -> int:
        self.graph.append(list(before))
        return len(self.graph) - 1

    def exchange(self, name: str, source: int, alike: Hashable, size: int = 4) -> int:
        result = self.operation()
        self.exchanges.append(Exchange(source, result, alike, MAY_WAIT[alike], size))
        self.names.append(name)
        return result

    def plan(self) -> list[list[str]]:
        found = fusion.plan(self.graph, self.exchanges)
        return [[self.names[number] for number in group] for group in found]


def three_layers(listed: Listed, size: int = 4) -> list[int]:
    """Lists layers of two all-to-alls each, forward and backward; returns their gradients."""
    x = listed.operation()
    for layer in range(3):
        out = listed.exchange(f"out{layer}", listed.operation(x), TOKENS)
        importance = listed.exchange(f"importance{layer}", listed.operation(x), TOKENS)
        x = listed.exchange(f"back{layer}", listed.operation(out, importance), TOKENS)
    slope, gradients = listed.operation(x), []
    for layer in reversed(range(3)):
        slope = listed.exchange(f"d back{layer}", listed.operation(slope), TOKENS)
        gradients.append(listed.exchange(f"weights{layer}", listed.operation(slope), WEIGHTS, size))
        slope = listed.exchange(f"d out{layer}", listed.operation(slope), TOKENS)
    return gradients


WAY_OF_TOKENS = [
    ["out0", "importance0"],
    ["back0"],
    ["out1", "importance1"],
    ["back1"],
    ["out2", "importance2"],
    ["back2"],
    ["d back2"],
    ["d out2"],
    ["d back1"],
    ["d out1"],
    ["d back0"],
]
# Nobody waits for the gradient of the inputs.
LAST = ["d out0"]


def test_gradients_of_all_layers_go_in_one_all_reduce() -> None:
    listed = Listed()
    gradients = three_layers(listed)
    norm = listed.exchange("norm", listed.operation(*gradients), WEIGHTS)
    listed.operation(norm)
    weights = ["weights2", "weights1", "weights0"]  # as the backward pass makes them
    plan = listed.plan()
    assert [group for group in plan if group not in (weights, ["norm"])] == [*WAY_OF_TOKENS, LAST]
    assert plan.index(["d back0"]) < plan.index(weights) < plan.index(["norm"])


def test_gradients_that_are_large_go_in_buckets() -> None:
    listed = Listed()
    three_layers(listed, fusion.BUCKET_BYTES // 2)
    assert [group for group in listed.plan() if "weights" in group[0]] == [
        ["weights2", "weights1"],
        ["weights0"],
    ]


def test_a_larger_exchange_than_a_bucket_goes_alone() -> None:
    listed = Listed()
    three_layers(listed, fusion.BUCKET_BYTES + 1)
    assert [group for group in listed.plan() if "weights" in group[0]] == [
        ["weights2"],
        ["weights1"],
        ["weights0"],
    ]


def test_an_all_to_all_that_nobody_waits_for_goes_with_a_later_one() -> None:
    listed = Listed()
    x = listed.operation()
    out = listed.exchange("out", listed.operation(x), TOKENS)
    told = listed.exchange("told", listed.operation(out), TOKENS)
    deeper = listed.exchange("deeper", listed.operation(out), INNER)
    back = listed.exchange("back", listed.operation(deeper), TOKENS)
    listed.operation(back, told)
    assert listed.plan() == [["out"], ["deeper"], ["told", "back"]]


def test_exchanges_of_other_processes_stay_apart() -> None:
    listed = Listed()
    x = listed.operation()
    for name, alike in (("a", WEIGHTS), ("b", ROWS), ("c", WEIGHTS), ("d", TOKENS)):
        listed.exchange(name, x, alike)
    assert sorted(listed.plan()) == [["a", "c"], ["b"], ["d"]]


def test_a_loop_is_waited_for() -> None:
    """The head of a loop waits for its end, which has a higher number."""
    graph = [[], [0, 3], [1], [2], [2], [], [5]]
    exchanges = [Exchange(4, 5, WEIGHTS, True, 4)]
    assert fusion.plan(graph, exchanges) == [[0]]
    assert fusion.needed(graph, exchanges, [6]) == [True]
    assert fusion.needed(graph, exchanges, [3]) == [False]


def test_the_simulator_finds_a_bad_order() -> None:
    graph: Graph = [[], [], [1], []]
    exchanges = [Exchange(0, 1, TOKENS, False, 4), Exchange(2, 3, TOKENS, False, 4)]
    assert all(arrives(graph, exchanges, [[0], [1]]))
    for bad in ([[1], [0]], [[0, 1]]):
        with pytest.raises(AssertionError, match="group 0 waits for a later one"):
            arrives(graph, exchanges, bad)


def test_counts_of_a_step() -> None:
    """Three layers: twelve all-to-alls of fifteen tensors, an all-reduce of three."""
    listed = Listed()
    three_layers(listed)
    kinds = collections.Counter(len(group) for group in listed.plan())
    assert kinds == {1: 9, 2: 3, 3: 1}
