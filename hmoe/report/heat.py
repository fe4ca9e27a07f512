"""Pictures of tables: a colored cell for each number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hmoe.report import drawing
from hmoe.report.content import Picture

# The most rows and columns whose names are written, and characters that fit upright.
_MOST_NAMES, _MOST_COLUMNS, _MOST_CHARACTERS = 40, 32, 24


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
    lowest: float = 0.0,
    every: int = 0,
) -> Picture:
    """Draws a table.

    Args:
      name: of the files.
      title: what it shows.
      alt: what a person who does not see it needs to know.
      values: float [rows, columns]; nan for an empty cell.
      rows: names of the rows.
      columns: names of the columns.
      label: what colors mean.
      highest: the value of the last color.
      lowest: the value of the first color.
      every: a line stands before each column whose number is a multiple of this; 0 for none.
    """
    height = 1.3 + 0.2 * min(len(rows), _MOST_NAMES)
    figure, axes = drawing.figure(height=height)
    axes.grid(visible=False)
    mesh = axes.pcolormesh(values, cmap="viridis", vmin=lowest, vmax=max(highest, lowest + 1e-9))
    mesh.set_rasterized(True)  # an image is smaller than a path for each cell
    axes.invert_yaxis()
    rotation = 90 if sum(map(len, columns)) > _MOST_CHARACTERS else 0
    axes.set_xticks(*_ticks(columns, _MOST_COLUMNS), rotation=rotation)
    axes.set_yticks(*_ticks(rows, _MOST_NAMES))
    for column in range(every, values.shape[1], every) if every else ():
        axes.axvline(column, color=drawing.PAPER, linewidth=1.5)
    axes.tick_params(length=0, labelsize=8)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.06)
    bar.set_label(label, color=drawing.INK, fontsize=9)
    bar.ax.tick_params(colors=drawing.INK, labelsize=8)
    bar.outline.set_visible(False)
    return drawing.picture(figure, name, title, alt)


def _ticks(names: Sequence[str], most: int) -> tuple[list[float], list[str]]:
    """Returns middles of cells and their names, leaving some out where there is no room."""
    step = -(-len(names) // most)
    places = range(0, len(names), step)
    return [place + 0.5 for place in places], [drawing.name(names[place]) for place in places]
