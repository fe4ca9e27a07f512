"""The ways of a token through the levels of a traced layer, with the weights on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from hmoe.analysis.traces import LayerInfo, Trace


class Way(NamedTuple):
    """How far a token, or a copy of it, came in a layer.

    Attributes:
      experts: the experts on the way, outermost first; the last of "no room" is the one that had
        none.
      weight: the product of the weights of the levels that were passed.
      end: "leaf" if it reached an expert at the end of the hierarchy, "no room", or "unchosen" if
        no expert chose it.
    """

    experts: tuple[int, ...]
    weight: float
    end: Literal["leaf", "no room", "unchosen"]


class TokenWays(NamedTuple):
    """A token and its ways.

    Attributes:
      piece: its text.
      ways: those of all its copies.
    """

    piece: str
    ways: tuple[Way, ...]


def of_example(trace: Trace, example: int, layer: LayerInfo) -> dict[int, TokenWays]:
    """Returns the ways of each token of an example, by position in its sequence."""
    rows = (trace.rows_of(layer.name) & (trace.numbers["example"] == example)).nonzero()[0]
    numbers = {name: values[rows] for name, values in trace.numbers.items()}
    pieces = trace.words("piece")[rows]
    by_position: dict[int, list[dict]] = {}
    texts = {}
    for index in range(len(rows)):
        row = {name: values[index].item() for name, values in numbers.items()}
        by_position.setdefault(row["position"], []).append(row)
        texts[row["position"]] = str(pieces[index])
    return {
        position: TokenWays(texts[position], tuple(_ways(of_token, layer)))
        for position, of_token in sorted(by_position.items())
    }


def _ways(rows: Sequence[dict], layer: LayerInfo) -> Iterator[Way]:
    # What has come to a group of experts: its way there and its weight, by level, path and parent.
    arrived: dict[tuple[int, int, int], tuple[tuple[int, ...], float]] = {(0, 0, 0): ((), 1.0)}
    last = len(layer.levels) - 1
    for row in sorted(rows, key=lambda each: (each["level"], each["path"], each["rank"])):
        way, weight = arrived[row["level"], row["path"], row["parent"]]
        if not row["used"]:
            if row["expert"] < 0:
                yield Way(way, weight, "unchosen")
            continue
        if row["went"] < 0:
            yield Way((*way, row["expert"]), weight, "no room")
            continue
        way, weight = (*way, row["went"]), weight * row["weight"]
        if row["level"] == last:
            yield Way(way, weight, "leaf")
            continue
        info = layer.levels[row["level"]]
        path = row["path"] * info.num_choices + row["expert" if info.experts_choose else "rank"]
        group = row["parent"] * info.num_experts + row["went"]
        arrived[row["level"] + 1, path, group] = (way, weight)
