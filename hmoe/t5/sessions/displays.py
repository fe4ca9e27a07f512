"""Ways to show the progress of training: lines, or a table that is drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hmoe.startup.live_region import LiveRegion
from hmoe.t5.sessions.progress_report import ProgressReport, progress_line


class Display(Protocol):
    """Shows the progress of training."""

    def show_step(self, step: int) -> None:
        """Shows that so many steps are done, without other numbers."""

    def show_report(self, report: ProgressReport) -> None:
        """Shows the numbers of a report."""


class LineDisplay:
    """Prints a line for each report.

    Args:
      say: prints a line for the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say

    def show_step(self, step: int) -> None:
        """Prints nothing."""

    def show_report(self, report: ProgressReport) -> None:
        """Prints the line."""
        self._say(progress_line(report))


class LiveDisplay:
    """Draws a bar and a table; the lines of reports go to the log.

    Args:
      region: draws them.
      max_steps: the step that training stops at.
    """

    def __init__(self, region: LiveRegion, max_steps: int):
        self._region = region
        self._max_steps = max_steps
        self._report: ProgressReport | None = None

    def show_step(self, step: int) -> None:
        """Moves the bar, unless it has moved a moment ago."""
        if self._region.is_due:
            self._draw(step)

    def show_report(self, report: ProgressReport) -> None:
        """Draws the table of a report."""
        self._report = report
        self._region.record(progress_line(report))
        self._draw(report.step)

    def _draw(self, step: int) -> None:
        # Imported here, since it takes a moment and lines do without.
        from hmoe.t5.sessions import progress_table

        self._region.show(progress_table.picture(step, self._max_steps, self._report))


def display_for(region: LiveRegion | None, say: Callable[[str], None], max_steps: int) -> Display:
    """Returns the table where there is a region to draw in, else lines.

    Args:
      region: the region of the terminal; None where output is no terminal.
      say: prints a line for the user.
      max_steps: the step that training stops at.
    """
    return LineDisplay(say) if region is None else LiveDisplay(region, max_steps)
