"""Choices are found again by the tokens of an example: beside a loop over the rows of a trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hmoe.analysis.replay import Replay, tokens_read, vector_sizes
from hmoe.analysis.traces import Category, LayerInfo, LevelInfo, Manifest, Trace

# (experts, choices) of the levels of each layer.
LEVELS = {"encoder/one": [(5, 2)], "decoder/three": [(4, 2), (3, 3), (2, 1)]}
SEQUENCES = {"encoder/one": "inputs", "decoder/three": "targets"}
LENGTH = 6
INPUTS = [[3, 4, 5, 1], [3, 4, 1], [3, 4, 5, 1], [7, 1]]
TARGETS = [[8, 9, 1], [8, 1], [8, 9, 6, 1], [8, 1]]

# By (layer, example, position, ranks that led there): [(rank, expert, used)]
Choices = dict[tuple, list[tuple[int, int, bool]]]


def layer_info(name: str) -> LayerInfo:
    levels = tuple(
        LevelInfo(f"level_{number}", *sizes, "TopKRouter")
        for number, sizes in enumerate(LEVELS[name])
    )
    return LayerInfo(name, SEQUENCES[name], levels)


def read(sequence: str, ids: list[int]) -> list[int]:
    return ids if sequence == "inputs" else [0, *ids[:-1]]


def made_up(names: Sequence[str]) -> tuple[Trace, Choices]:
    """Returns a trace of random choices, of which some have no room, and all choices."""
    random = np.random.default_rng(3)
    choices: Choices = {}
    rows = []
    for name in names:
        texts = {"inputs": INPUTS, "targets": TARGETS}[SEQUENCES[name]]
        for example, ids in enumerate(texts):
            for position, token in enumerate(read(SEQUENCES[name], ids)):
                copies: list[tuple[int, ...]] = [()]
                for level, (experts, k) in enumerate(LEVELS[name]):
                    arrived = []
                    for ranks in copies:
                        path = 0
                        for (_, base), rank in zip(LEVELS[name], ranks):
                            path = path * base + rank
                        place = (name, example, position, token, level, path)
                        number = random.integers(0 if level else 1, k + 1)
                        own = [
                            (rank, int(expert), bool(random.random() < 0.8))
                            for rank, expert in enumerate(random.permutation(experts)[:number])
                        ]
                        choices[(name, example, position, ranks)] = own
                        rows += [(*place, *choice) for choice in own or [(-1, -1, False)]]
                        arrived += [(*ranks, r) for r, _, used in own if used]
                    copies = arrived
    return trace_of(names, rows), choices


def trace_of(names: Sequence[str], rows: list[tuple]) -> Trace:
    fields = ("example", "position", "token", "level", "path", "rank", "expert", "used")
    columns = dict(zip(("layer", *fields), zip(*rows)))
    numbers = {name: np.array(columns[name]) for name in fields}
    pieces = ("<start>", "<end>", "2", "3", "4", "5", "6", "7", "8", "9")
    codes = np.array([names.index(each) for each in columns["layer"]], np.int32)
    categories = {
        "layer": Category(codes, tuple(names)),
        "piece": Category(numbers["token"], pieces),
    }
    layers = tuple(layer_info(name) for name in names)
    return Trace(
        Manifest("0.0", "model.ckpt-1", 1, len(INPUTS), (), layers, {}), numbers, categories
    )


def by_loop(choices: Choices, name: str, example: int, position: int) -> list[int]:
    """Returns the vector of a token, rank by rank."""

    def vector(ranks: tuple[int, ...]) -> list[int]:
        if len(ranks) == len(LEVELS[name]):
            return []
        k = LEVELS[name][len(ranks)][1]
        own = {r: e for r, *e in choices.get((name, example, position, ranks), [])}
        entries = [0] * k
        for rank, (expert, used) in own.items():
            entries[rank] = expert + 1 if used else -expert - 1
        return entries + [entry for rank in range(k) for entry in vector((*ranks, rank))]

    return vector(())


def padded(texts: list[list[int]]) -> np.ndarray:
    return np.array([ids + [0] * (LENGTH - len(ids)) for ids in texts], np.int64)


def expected(choices: Choices, name: str, rows: Sequence[int | None]) -> np.ndarray:
    found = np.zeros([len(rows), LENGTH, vector_sizes(layer_info(name))[0]], np.float32)
    texts = {"inputs": INPUTS, "targets": TARGETS}[SEQUENCES[name]]
    for row, example in enumerate(rows):
        for position in range(0 if example is None else len(texts[example])):
            found[row, position] = by_loop(choices, name, example, position)
    return found


def test_finds_the_choices_of_a_loop() -> None:
    names = list(LEVELS)
    trace, choices = made_up(names)
    order = [2, 0, 3, 1]
    find = Replay("some.parquet", trace).finder()
    batch = {
        "inputs": padded([INPUTS[n] for n in order] + [[]]),
        "targets": padded([TARGETS[n] for n in order] + [[]]),
    }
    for name, found in zip(names, find(batch)):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected(choices, name, [*order, None]))
        assert (found < 0).any()


def test_examples_that_are_the_same_come_in_turn() -> None:
    """The first and the third have the same inputs, and no other sequence was traced."""
    trace, choices = made_up(["encoder/one"])
    find = Replay("some.parquet", trace).finder()
    rows = [0, 0, 1, 0, 2]
    batch = {"inputs": padded([INPUTS[n] for n in rows]), "targets": padded([[8, 1]] * 5)}
    (found,) = find(batch)
    np.testing.assert_array_equal(found, expected(choices, "encoder/one", [0, 2, 1, 0, 2]))


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([7, 8, 9, 0, 0], [0, 7, 8]),
        ([7, 8, 9, 5, 0], [0, 7, 8, 9, 5]),  # whether the last target is padding is not seen
        ([7, 8, 9, 5, 6], [0, 7, 8, 9, 5]),
        ([7, 0, 0, 0, 0], [0]),
        ([0, 0, 0, 0, 0], []),
    ],
)
def test_a_decoder_reads_one_position_later(ids: list[int], found: list[int]) -> None:
    assert tokens_read("targets", np.array(ids)).tolist() == found
    assert tokens_read("inputs", np.array(ids)).tolist() == [each for each in ids if each]


def test_an_example_that_was_not_traced() -> None:
    trace, _ = made_up(list(LEVELS))
    find = Replay("some.parquet", trace).finder()
    with pytest.raises(ValueError) as caught:
        find({"inputs": padded([[3, 4, 40, 1]]), "targets": padded([[8, 9, 1]])})
    assert str(caught.value) == (
        "--replay: some.parquet has no example that reads inputs '34<40><end>'; targets"
        " '<start>89'; trace the examples that are to be replayed with `hmoe trace`, with the same"
        " data and sequence lengths"
    )


def test_examples_that_nothing_tells_apart() -> None:
    trace, _ = made_up(["decoder/three"])
    with pytest.raises(ValueError) as caught:
        Replay("some.parquet", trace)
    assert str(caught.value) == (
        "some.parquet: examples 1 and 3 have the same targets, '<start>8', and other choices; only"
        " layers of the decoder were traced, so nothing tells the two apart. Trace examples with"
        " different targets"
    )


def test_experts_that_choose() -> None:
    trace, _ = made_up(["encoder/one"])
    level = LevelInfo("only", 5, 5, "ExpertChoiceRouter", experts_choose=True)
    manifest = Manifest("0.0", "c", 1, 4, (), (LayerInfo("encoder/one", "inputs", (level,)),), {})
    with pytest.raises(ValueError) as caught:
        Replay("some.parquet", Trace(manifest, trace.numbers, trace.categories))
    assert str(caught.value) == (
        "some.parquet: level 'only' of encoder/one was routed by ExpertChoiceRouter, where experts"
        " choose among all tokens of a group; only choices of tokens can be replayed"
    )
