"""Counts the texts that are cut because they are longer than the model reads."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class CutCount:
    """Counts texts, and those among them that are cut.

    Attributes:
      what: name of the texts, in the plural.
      feature: "inputs" or "targets".
      limit: tokens that the model reads, end mark included.
      total: number of texts.
      cut: number of those that are longer.
      longest: tokens of the longest, end mark included.
      first: number of the first line that is cut; None if lines have no numbers.
    """

    what: str
    feature: str
    limit: int
    total: int = 0
    cut: int = 0
    longest: int = 0
    first: int | None = None

    def add(self, num_tokens: int, line: int | None = None) -> None:
        """Counts a text of a number of tokens, end mark included."""
        self.total += 1
        self.longest = max(self.longest, num_tokens)
        if num_tokens > self.limit:
            self.cut += 1
            self.first = self.first or line

    def warning(self) -> str | None:
        """Returns a line for the user, or None if nothing is cut."""
        if not self.cut:
            return None
        first = f"the first is line {self.first}, " if self.first else ""
        are = "are" if self.cut > 1 else "is"
        return (
            f"Warning: {self.cut} of {self.total} {self.what} {are} cut at {self.limit} tokens "
            f"({first}the longest has {self.longest}); "
            f'utils.run.sequence_length sets the length of "{self.feature}"'
        )
