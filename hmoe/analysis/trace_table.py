"""The trace of one example as tables for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from hmoe.analysis.traces import LayerInfo, Trace
from hmoe.startup import tables

_LEGEND = (
    "Each cell: the expert, outermost level first, and the weight of its output; x: no room for the"
    " token there; -: not used, or chosen by none."
)


def report(trace: Trace, example: int, *, styled: bool = False) -> str:
    """Returns a table for each sequence of an example, with a row for each token.

    Args:
      trace: the trace.
      example: the number of the example.
      styled: whether a terminal that knows styles reads it.
    """
    found: list[RenderableType] = []
    for sequence in ("inputs", "targets"):
        layers = [each for each in trace.manifest.layers if each.sequence == sequence]
        if layers:
            found.append(_table(trace, example, sequence, layers))
    return tables.rendered([*found, _LEGEND], styled=styled)


def _table(
    trace: Trace, example: int, sequence: str, layers: Sequence[LayerInfo]
) -> RenderableType:
    table = tables.table("token", *(layer.name for layer in layers))
    columns = [_cells(trace, example, layer) for layer in layers]
    for position, (piece, _) in columns[0].items():
        cells = [column[position][1] if position in column else "" for column in columns]
        table.add_row(piece, *cells)
    return tables.titled(f"Tokens of {sequence}", table)


def _cells(trace: Trace, example: int, layer: LayerInfo) -> dict[int, tuple[str, str]]:
    """Returns the text of each token and of its cell, by position."""
    rows = (trace.rows_of(layer.name) & (trace.numbers["example"] == example)).nonzero()[0]
    numbers = {name: values[rows] for name, values in trace.numbers.items()}
    pieces = trace.words("piece")[rows]
    by_position: dict[int, list[dict]] = {}
    text = {}
    for index in range(len(rows)):
        row = {name: values[index].item() for name, values in numbers.items()}
        by_position.setdefault(row["position"], []).append(row)
        text[row["position"]] = repr(pieces[index])[1:-1]
    return {
        position: (text[position], ", ".join(_leaves(of_token, layer)))
        for position, of_token in by_position.items()
    }


def _leaves(rows: Sequence[dict], layer: LayerInfo) -> Iterator[str]:
    """Yields the ways of a token to its experts, such as `2.1 0.63`."""
    # What has come to a group of experts: its way there and its weight, by level, path and parent.
    arrived = {(0, 0, 0): ("", 1.0)}
    last = len(layer.levels) - 1
    for row in sorted(rows, key=lambda each: (each["level"], each["path"], each["rank"])):
        way, weight = arrived[row["level"], row["path"], row["parent"]]
        if not row["used"]:
            if row["expert"] < 0:
                yield f"{way}-"
            continue
        if row["went"] < 0:
            yield f"{way}{row['expert']}x"
            continue
        way, weight = f"{way}{row['went']}", weight * row["weight"]
        if row["level"] == last:
            yield f"{way} {weight:.2f}"
            continue
        info = layer.levels[row["level"]]
        path = row["path"] * info.num_choices + row["expert" if info.experts_choose else "rank"]
        group = row["parent"] * info.num_experts + row["went"]
        arrived[row["level"] + 1, path, group] = (f"{way}.", weight)
