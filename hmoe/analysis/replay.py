"""Finds the choices that a trace has for the tokens of a batch, for a run that replays them.

The choices of a token in a layer are one vector of float32. At a level with k choices it is

    [own entry of each rank 0 ... k - 1][vector of the next level for each of these ranks]

An entry is the number of the expert plus 1, negative if the policy did not use the choice, and 0
where there is none. `hmoe.layer.replay` takes the vectors apart again.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hmoe.analysis.traces import LayerInfo, Trace

#: Most tokens of an example that an error shows.
_SHOWN = 30


class Tokens(NamedTuple):
    """Numbers of tokens, for example after example.

    Attributes:
      begin: int64 [examples + 1], where each example begins, and the end.
      values: [tokens, ...].
    """

    begin: np.ndarray
    values: np.ndarray

    def of(self, example: int) -> np.ndarray:
        """Returns the numbers of an example, [positions, ...]."""
        return self.values[self.begin[example] : self.begin[example + 1]]


# The tokens of each sequence that the trace is of, as bytes.
_Key = tuple[bytes, ...]


def vector_sizes(layer: LayerInfo) -> list[int]:
    """Returns the length of a token's vector at each level of a layer; 0 behind the last level."""
    sizes = [0]
    for level in reversed(layer.levels):
        sizes.insert(0, level.num_choices * (1 + sizes[0]))
    return sizes


class Replay:
    """The choices of a trace, to be found by the tokens of an example."""

    def __init__(self, path: str, trace: Trace):
        """Arranges the choices by examples.

        Args:
          path: the file, for errors.
          trace: the trace.

        Raises:
          ValueError: experts choose in it, or its examples cannot be told apart.
        """
        self.path = path
        self.layers = trace.manifest.layers
        for layer in self.layers:
            _refuse_experts_that_choose(path, layer)
        self.sequences = tuple(
            name
            for name in ("inputs", "targets")
            if name in {each.sequence for each in self.layers}
        )
        self._vectors = [vectors_of(trace, layer) for layer in self.layers]
        self._ids = {name: _ids(trace, self.layers, name) for name in self.sequences}
        self._pieces = dict(zip(trace.numbers["token"].tolist(), trace.words("piece")))
        self._examples: dict[_Key, list[int]] = collections.defaultdict(list)
        for example in range(trace.manifest.num_examples):
            key = tuple(self._ids[name].of(example).tobytes() for name in self.sequences)
            self._examples[key].append(example)
        if "inputs" not in self.sequences:
            self._refuse_different_choices()

    def finder(self) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
        """Returns a function that finds the choices for the tokens of one batch after another.

        It takes ids [batch, length] of "inputs" and "targets", 0 for padding, and returns vectors
        float32 [batch, length, V] for each layer, 0 for padding. Examples that are the same in
        what the layers read get the choices of each of them in turn. An example that is not in the
        trace is a ValueError.
        """
        seen: collections.Counter[_Key] = collections.Counter()

        def find(batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            examples: list[int | None] = []
            for row in range(len(batch["targets"])):
                key = self._key({name: ids[row] for name, ids in batch.items()})
                if key is None:
                    examples.append(None)
                    continue
                same = self._examples[key]
                examples.append(same[seen[key] % len(same)])
                seen[key] += 1
            return [
                self._filled(vectors, examples, batch[layer.sequence].shape)
                for vectors, layer in zip(self._vectors, self.layers)
            ]

        return find

    def _key(self, row: Mapping[str, np.ndarray]) -> _Key | None:
        """Returns the key of an example of a batch; None for a row of padding alone.

        Raises:
          ValueError: the trace does not have it.
        """
        if not any(ids.any() for ids in row.values()):
            return None
        read = {name: tokens_read(name, row[name]) for name in self.sequences}
        key = tuple(ids.tobytes() for ids in read.values())
        if key not in self._examples:
            shown = "; ".join(f"{name} {self._text(ids)!r}" for name, ids in read.items())
            raise ValueError(
                f"--replay: {self.path} has no example that reads {shown}; trace the examples that"
                " are to be replayed with `hmoe trace`, with the same data and sequence lengths"
            )
        return key

    def _text(self, ids: np.ndarray) -> str:
        pieces = [str(self._pieces.get(int(each), f"<{each}>")) for each in ids[:_SHOWN]]
        return "".join(pieces) + (" ..." if len(ids) > _SHOWN else "")

    @staticmethod
    def _filled(
        vectors: Tokens, examples: Sequence[int | None], shape: tuple[int, ...]
    ) -> np.ndarray:
        found = np.zeros((*shape, vectors.values.shape[-1]), np.float32)
        for row, example in enumerate(examples):
            if example is not None:
                own = vectors.of(example)
                found[row, : len(own)] = own
        return found

    def _refuse_different_choices(self) -> None:
        """Raises ValueError for examples of the same targets whose tokens went elsewhere."""
        for same in self._examples.values():
            for other in same[1:]:
                if all(np.array_equal(v.of(same[0]), v.of(other)) for v in self._vectors):
                    continue
                shown = self._text(self._ids["targets"].of(other))
                raise ValueError(
                    f"{self.path}: examples {same[0]} and {other} have the same targets, {shown!r},"
                    " and other choices; only layers of the decoder were traced, so nothing tells"
                    " the two apart. Trace examples with different targets"
                )


def tokens_read(sequence: str, ids: np.ndarray) -> np.ndarray:
    """Returns what the layers of a T5 read of an example, without the padding at its end.

    A decoder reads its targets one position later, after a 0. Its last position counts where the
    target before it is no padding.

    Args:
      sequence: "inputs" or "targets".
      ids: int [length], 0 for padding.

    Returns:
      int32 [positions].
    """
    ids = ids.astype(np.int32)
    real = ids != 0
    if sequence == "targets":
        if len(ids) > 1:
            real = np.append(real[:-1], real[-2])
        ids = np.append(np.zeros(1, np.int32), ids[:-1])
    positions = np.flatnonzero(real)
    return ids[: positions[-1] + 1 if len(positions) else 0]


def _refuse_experts_that_choose(path: str, layer: LayerInfo) -> None:
    for level in layer.levels:
        if level.experts_choose:
            raise ValueError(
                f"{path}: level '{level.name}' of {layer.name} was routed by {level.router}, where"
                " experts choose among all tokens of a group; only choices of tokens can be"
                " replayed"
            )


def _ids(trace: Trace, layers: Sequence[LayerInfo], sequence: str) -> Tokens:
    """Returns the tokens that a sequence's first layer read, int32 [tokens]."""
    layer = next(each for each in layers if each.sequence == sequence)
    rows = trace.rows_of(layer.name)
    begin, at = _places(trace, rows)
    ids = np.zeros(begin[-1], np.int32)
    ids[at] = trace.numbers["token"][rows]
    return Tokens(begin, ids)


def vectors_of(trace: Trace, layer: LayerInfo) -> Tokens:
    """Returns the vectors of all tokens in one layer, float32 [tokens, V]."""
    rows = trace.rows_of(layer.name)
    begin, at = _places(trace, rows)
    numbers = {name: column[rows] for name, column in trace.numbers.items()}
    sizes = vector_sizes(layer)
    vectors = np.zeros([begin[-1], sizes[0]], np.float32)
    entry = (numbers["expert"] + 1) * np.where(numbers["used"], 1, -1)
    for level in range(len(layer.levels)):
        # A token that nobody chose has a row, and no choice.
        own = (numbers["level"] == level) & (numbers["expert"] >= 0)
        column = numbers["rank"][own].astype(np.int64)
        path = numbers["path"][own]
        for above in reversed(range(level)):
            path, digit = np.divmod(path, layer.levels[above].num_choices)
            column += layer.levels[above].num_choices + digit * sizes[above + 1]
        vectors[at[own], column] = entry[own]
    return Tokens(begin, vectors)


def _places(trace: Trace, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each example's tokens begin, and the token of each of the rows."""
    example, position = trace.numbers["example"][rows], trace.numbers["position"][rows]
    lengths = np.zeros(trace.manifest.num_examples, np.int64)
    np.maximum.at(lengths, example, position.astype(np.int64) + 1)
    begin = np.concatenate([[0], np.cumsum(lengths)])
    return begin, begin[example] + position
