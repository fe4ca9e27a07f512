"""Pictures of tables: a colored cell for each number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hmoe.report import drawing
from hmoe.report.content import HeatMap, Item, Picture, Section

# The most rows and columns whose names are written, and characters that fit upright.
_MOST_NAMES, _MOST_COLUMNS, _MOST_CHARACTERS = 40, 32, 24


def drawn(section: Section) -> Section:
    """Returns a section with its heat maps as pictures.

    Those of one scale have the same colors, so that layers and runs can be compared by eye.
    """
    items = [item for side in section.sides for item in side.items]
    heat_maps = [item for item in items if isinstance(item, HeatMap)]
    ends = {
        scale: _ends([each.values for each in heat_maps if each.scale == scale])
        for scale in {each.scale for each in heat_maps}
    }

    def picture(item: Item) -> Item:
        return _draw(item, *ends[item.scale]) if isinstance(item, HeatMap) else item

    sides = [
        dataclasses.replace(side, items=tuple(map(picture, side.items))) for side in section.sides
    ]
    return dataclasses.replace(section, sides=tuple(sides))


def _ends(tables: Sequence[np.ndarray]) -> tuple[float, float]:
    """Returns the values of the first and the last color, with 0 and all numbers between them."""
    numbers = np.concatenate([table[~np.isnan(table)] for table in tables])
    return float(numbers.min(initial=0.0)), float(numbers.max(initial=1e-9))


def _draw(heat: HeatMap, lowest: float, highest: float) -> Picture:
    height = 1.3 + 0.2 * min(len(heat.rows), _MOST_NAMES)
    figure, axes = drawing.figure(height=height)
    axes.grid(visible=False)
    mesh = axes.pcolormesh(heat.values, cmap="viridis", vmin=lowest, vmax=highest)
    mesh.set_rasterized(True)  # an image is smaller than a path for each cell
    axes.invert_yaxis()
    rotation = 90 if sum(map(len, heat.columns)) > _MOST_CHARACTERS else 0
    axes.set_xticks(*_ticks(heat.columns, _MOST_COLUMNS), rotation=rotation)
    axes.set_yticks(*_ticks(heat.rows, _MOST_NAMES))
    every = heat.every
    for column in range(every, heat.values.shape[1], every) if every else ():
        axes.axvline(column, color=drawing.PAPER, linewidth=1.5)
    axes.tick_params(length=0, labelsize=8)
    bar = figure.colorbar(mesh, ax=axes, fraction=0.06)
    bar.set_label(heat.label, color=drawing.INK, fontsize=9)
    bar.ax.tick_params(colors=drawing.INK, labelsize=8)
    bar.outline.set_visible(False)
    return drawing.picture(figure, heat.name, heat.title, heat.alt)


def _ticks(names: Sequence[str], most: int) -> tuple[list[float], list[str]]:
    """Returns middles of cells and their names, leaving some out where there is no room."""
    step = -(-len(names) // most)
    places = range(0, len(names), step)
    return [place + 0.5 for place in places], [drawing.name(names[place]) for place in places]
