"""The trace of one example as tables for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from hmoe.analysis import ways
from hmoe.analysis.traces import LayerInfo, Trace
from hmoe.analysis.ways import Way
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
    return {
        position: (repr(token.piece)[1:-1], ", ".join(map(_words, token.ways)))
        for position, token in ways.of_example(trace, example, layer).items()
    }


def _words(way: Way) -> str:
    """Returns a way in words, such as "2.1 0.63"."""
    experts = ".".join(map(str, way.experts))
    if way.end == "leaf":
        return f"{experts} {way.weight:.2f}"
    if way.end == "no room":
        return f"{experts}x"
    return f"{experts}.-" if experts else "-"
