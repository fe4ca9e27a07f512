"""What a report's page is made of. Texts are plain; the page escapes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      caption: what it shows.
      columns: headings; the first is that of the rows' own headings.
      rows: the cells, each row as long as the headings.
      is_prose: whether cells hold words, to be aligned and wrapped as such.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_prose: bool = False
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, which is also written as files beside the page.

    Attributes:
      name: name of the files, without ending.
      title: what it shows.
      alt: what a person who does not see it needs to know.
      svg: as SVG.
      png: as PNG.
      width: its natural width in CSS pixels.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes
    width: int
    kind: str = "picture"


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A table whose cells are to be colored, before it is a picture.

    Attributes:
      name: name of the picture's files, without ending.
      title: what it shows.
      alt: what a person who does not see it needs to know.
      values: float [rows, columns]; nan for an empty cell.
      rows: names of the rows.
      columns: names of the columns.
      label: what colors mean.
      scale: a name; heat maps with the same name, of whichever run, have the same colors.
      every: a line stands before each column whose number is a multiple of this; 0 for none.
    """

    name: str
    title: str
    alt: str
    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    label: str
    scale: str
    every: int = 0


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart that shows numbers under the pointer.

    Attributes:
      name: its name in the page.
      title: what it shows.
      alt: what a person who does not see it needs to know.
      spec: what Vega-Lite draws.
    """

    name: str
    title: str
    alt: str
    spec: Mapping[str, Any]
    kind: str = "chart"


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph.

    Attributes:
      text: its words.
      code: a command for the user's shell at its end, or "".
    """

    text: str
    code: str = ""
    kind: str = "note"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A token of a sentence.

    Attributes:
      text: its text.
      leaf: number of the leaf that it reached, or "-".
      title: words about its way.
      color: background, as "#rrggbb"; "" for none.
      ink: color of its text, as "#rrggbb"; "" for that of the page.
    """

    text: str
    leaf: str
    title: str
    color: str
    ink: str


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence in color.

    Attributes:
      caption: which one it is.
      pieces: its tokens.
    """

    caption: str
    pieces: tuple[Piece, ...]
    kind: str = "sentence"


Item: TypeAlias = Table | Picture | HeatMap | Chart | Note | Sentence


@dataclasses.dataclass(frozen=True)
class Side:
    """What a section shows of one run.

    Attributes:
      title: the run's name; "" where there is only one.
      items: what is shown.
    """

    title: str
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
      name: its name in addresses within the page.
      title: its heading.
      formula: how the numbers are computed.
      reading: one sentence that says how to read them.
      where: which layers and levels, and what each token counts.
      sides: one for each run, or one for all.
    """

    name: str
    title: str
    formula: str
    reading: str
    where: str
    sides: tuple[Side, ...]
