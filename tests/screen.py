"""What stands on a terminal after bytes were written to it, for the few controls that are used."""

from __future__ import annotations

import re

# A control sequence, or any other character.
_PIECE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|(.)", re.DOTALL)
# The colors among the numbers of a style (SGR); 39 and 49 put the default back.
_COLOR = re.compile(r"3[0-8]|4[0-8]|9[0-7]|10[0-7]")


class Screen:
    """Lines of any length, so that nothing scrolls or wraps.

    Attributes:
      lines: what stands there, without styles.
      shows_cursor: whether the cursor is shown.
      colors: the colors that were set, as numbers of SGR.
    """

    def __init__(self, text: str):
        self.lines = [""]
        self.shows_cursor = True
        self.colors: set[str] = set()
        self._row = self._column = 0
        for numbers, letter, character in _PIECE.findall(text):
            if letter:
                self._control(numbers, letter)
            else:
                self._write(character)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()

    def _write(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            # A terminal turns "\n" into "\r\n".
            self._row, self._column = self._row + 1, 0
            self.lines += [""] * (self._row + 1 - len(self.lines))
        else:
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _control(self, numbers: str, letter: str) -> None:
        if letter == "A":
            self._row = max(0, self._row - int(numbers or 1))
        elif letter == "K":
            assert numbers == "2", f"erases {numbers!r}"
            self.lines[self._row] = ""
        elif letter in "hl":
            assert numbers == "?25", numbers
            self.shows_cursor = letter == "h"
        else:
            assert letter == "m", letter
            self.colors.update(filter(_COLOR.fullmatch, numbers.split(";")))
