"""Tables for a person, in at most 100 columns."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 100


def rendered(parts: Sequence[RenderableType], *, styled: bool = False) -> str:
    """Returns what `rich` makes of tables and texts."""
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=WIDTH,
        force_terminal=styled,
        no_color=not styled,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()).rstrip()


def table(*columns: str) -> Table:
    """Returns an empty table whose first column is flush left and whose others are flush right."""
    found = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        found.add_column(column, justify="right" if number else "left", overflow="fold")
    return found


def titled(title: str, rows: Table) -> Group:
    """Returns a table below its title."""
    return Group(Text(title, style="bold"), rows)
