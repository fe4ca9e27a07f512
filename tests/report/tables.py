"""Reads the tables of a page."""

from __future__ import annotations

from html.parser import HTMLParser


def tables_of(text: str) -> dict[str, list[list[str]]]:
    """Returns, by caption, the texts of the cells of each row; the last table of each caption."""
    return _Tables(text).tables


class _Tables(HTMLParser):
    """Reads the tables of a page.

    Attributes:
      tables: by caption, the texts of the cells of each row.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._caption, self._inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[self._caption] = self._rows
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self._caption += data
        if self._inside in ("td", "th"):
            self._rows[-1][-1] += data
