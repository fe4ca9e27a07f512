"""Compares two traces of the same examples: how many tokens were routed to other experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from hmoe.analysis.traces import LayerInfo, Trace

# Above this difference of scores the order of two experts is the same on every mesh and engine, in
# float32.
SURE = 1e-3


@dataclasses.dataclass(frozen=True)
class FlipRate:
    """How many tokens of a level were routed otherwise.

    A token at an inner level is one copy of it in one group of experts; copies that came to a group
    in one of the traces alone are counted where they parted, at the level above.

    Attributes:
      layer: name of the layer.
      level: name of the level.
      tokens: tokens that both traces have there.
      flipped: those of which another set of experts was chosen, used or not.
      reordered: those of which the same experts were chosen in another order.
      sure: those whose choice hangs on more than `SURE` in both traces.
      sure_flipped: those of them that flipped.
    """

    layer: str
    level: str
    tokens: int
    flipped: int
    reordered: int
    sure: int
    sure_flipped: int

    @property
    def rate(self) -> float:
        """The share of tokens that flipped; 0 where there are none."""
        return self.flipped / max(self.tokens, 1)

    @property
    def sure_rate(self) -> float:
        """The share of sure tokens that flipped; 0 where there are none."""
        return self.sure_flipped / max(self.sure, 1)


def flip_rates(first: Trace, second: Trace) -> list[FlipRate]:
    """Compares two traces, layer by layer and level by level.

    Args:
      first: a trace.
      second: one of the same examples.

    Returns:
      A rate for each layer and level, outermost first.

    Raises:
      ValueError: the traces have other layers, or layers that read other tokens.
    """
    _check_layers(first, second)
    return [rate for layer in first.manifest.layers for rate in _of_layer(layer, first, second)]


def _check_layers(first: Trace, second: Trace) -> None:
    layers = [
        {
            layer.name: [level.num_experts for level in layer.levels]
            for layer in trace.manifest.layers
        }
        for trace in (first, second)
    ]
    for name in dict.fromkeys([*layers[0], *layers[1]]):
        sizes = [each.get(name) for each in layers]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"layer {name}: one trace has {_experts(sizes[0])} there and the other"
                f" {_experts(sizes[1])}; compare traces of models with the same experts"
            )


def _experts(sizes: list[int] | None) -> str:
    return "no experts" if sizes is None else f"{' x '.join(map(str, sizes))} experts"


def _of_layer(layer: LayerInfo, first: Trace, second: Trace) -> Iterator[FlipRate]:
    rows = [trace.rows_of(layer.name) for trace in (first, second)]
    _check_tokens(layer.name, first, second, rows)
    for number, level in enumerate(layer.levels):
        choices = [
            _Choices(trace, of_layer & (trace.numbers["level"] == number))
            for trace, of_layer in zip((first, second), rows)
        ]
        yield _rate(layer.name, level.name, *choices)


def _check_tokens(name: str, first: Trace, second: Trace, rows: list[np.ndarray]) -> None:
    """Checks that a layer read the same tokens in both traces."""
    read = []
    for trace, of_layer in zip((first, second), rows):
        numbers = trace.numbers
        outermost = of_layer & (numbers["level"] == 0)
        found = [numbers[each][outermost] for each in ("example", "position", "token")]
        read.append(np.unique(np.stack(found, axis=1), axis=0))
    if np.array_equal(read[0], read[1]):
        return
    sets = [set(map(tuple, each.tolist())) for each in read]
    example, position, _ = min(sets[0] ^ sets[1])
    raise ValueError(
        f"layer {name}: the traces are not of the same tokens; the first difference is in example"
        f" {example} at position {position}. Trace the same data with both"
    )


class _Choices:
    """The choices of one level, by the copy of the token that made them.

    Attributes:
      keys: int64 [copies, 4], example, position, path and parent, in order.
      experts: int [copies, K], by rank; -2 where there are no more.
      margin: float32 [copies].
    """

    def __init__(self, trace: Trace, rows: np.ndarray):
        names = ("example", "position", "path", "parent", "rank", "expert")
        columns = [trace.numbers[name][rows].astype(np.int64) for name in names]
        order = np.lexsort(columns[::-1])
        copies = np.stack(columns[:4], axis=1)[order]
        self.keys, begin, of_row = np.unique(copies, axis=0, return_index=True, return_inverse=True)
        of_row = of_row.reshape(-1)
        number = np.arange(len(order)) - begin[of_row]
        width = int(number.max(initial=0)) + 1
        self.experts = np.full((len(self.keys), width), -2)
        self.experts[of_row, number] = columns[5][order]
        self.margin = trace.numbers["margin"][rows][order][begin]


def _rate(layer: str, level: str, first: _Choices, second: _Choices) -> FlipRate:
    ours, theirs = _matched(first.keys, second.keys)
    width = max(first.experts.shape[1], second.experts.shape[1])
    ordered = [_widened(each.experts, width) for each in (first, second)]
    one, other = ordered[0][ours], ordered[1][theirs]
    flipped = (np.sort(one) != np.sort(other)).any(axis=1)
    with np.errstate(invalid="ignore"):  # no margin where experts choose
        sure = (first.margin[ours] > SURE) & (second.margin[theirs] > SURE)
    return FlipRate(
        layer=layer,
        level=level,
        tokens=len(ours),
        flipped=int(flipped.sum()),
        reordered=int(((one != other).any(axis=1) & ~flipped).sum()),
        sure=int(sure.sum()),
        sure_flipped=int((flipped & sure).sum()),
    )


def _matched(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of two tables that are equal, each row of a table being there once."""
    _, number = np.unique(np.concatenate([first, second]), axis=0, return_inverse=True)
    number = number.reshape(-1)
    _, ours, theirs = np.intersect1d(
        number[: len(first)], number[len(first) :], return_indices=True
    )
    return ours, theirs


def _widened(experts: np.ndarray, width: int) -> np.ndarray:
    return np.pad(experts, [(0, 0), (0, width - experts.shape[1])], constant_values=-2)
