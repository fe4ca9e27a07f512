"""Pictures of tables: a colored cell for each number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hmoe.report import drawing
from hmoe.report.content import Picture

# The most rows whose names are written.
_MOST_NAMES = 40


def draw(
    name: str,
    title: str,
    alt: str,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    highest: float,
    every: int = 0,
) -> Picture:
    """Draws a table.

    Args:
      name: of the files.
      title: what it shows.
      alt: what a person who does not see it needs to know.
      values: float [rows, columns], from 0; nan for an empty cell.
      rows: names of the rows.
      columns: names of the columns.
      label: what colors mean.
      highest: the value of the last color.
      every: a line stands before each column whose number is a multiple of this; 0 for none.
    """
    height = 1.3 + 0.2 * min(len(rows), _MOST_NAMES)
    figure, axes = drawing.figure(height=height)
    axes.grid(visible=False)
    mesh = axes.pcolormesh(values, cmap="viridis", vmin=0.0, vmax=max(highest, 1e-9))
    mesh.set_rasterized(values.size > 2000)
    axes.invert_yaxis()
    _ticks(axes.set_xticks, columns, most=16)
    _ticks(axes.set_yticks, rows, most=_MOST_NAMES)
    for column in range(every, values.shape[1], every) if every else ():
        axes.axvline(column, color=drawing.PAPER, linewidth=1.5)
    axes.tick_params(length=0, labelsize=8)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.06)
    bar.set_label(label, color=drawing.INK, fontsize=9)
    bar.ax.tick_params(colors=drawing.INK, labelsize=8)
    bar.outline.set_visible(False)
    return drawing.picture(figure, name, title, alt)


def _ticks(setter: Callable[..., object], names: Sequence[str], most: int) -> None:
    """Writes names in the middle of cells, leaving some out where there is no room."""
    step = -(-len(names) // most)
    places = range(0, len(names), step)
    setter([place + 0.5 for place in places], [names[place] for place in places])
