"""Draws the progress of training for a terminal: a bar, and a table of the last report."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hmoe.layer.level_states import LevelState
from hmoe.t5.sessions import run_metrics
from hmoe.t5.sessions.progress_report import LEFT_BEHIND, ProgressReport


def picture(step: int, max_steps: int, report: ProgressReport | None) -> RenderableType:
    """Returns what `rich` draws: four lines and a row for each level, from 60 columns on.

    Args:
      step: number of steps that are done.
      max_steps: the step that training stops at.
      report: the last report, which may be of an earlier step; None before the first one.
    """
    parts: list[RenderableType] = [_bar(step, max_steps, report)]
    if report is not None:
        parts.append(_numbers(report))
        if report.levels:
            parts.append(_levels(report.levels))
    return Group(*parts)


def _bar(step: int, max_steps: int, report: ProgressReport | None) -> Table:
    row = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, 1, None):
        row.add_column(ratio=ratio, no_wrap=True)
    end = f"{100 * step // max_steps} %"
    time_left = report.time_left(step) if report else None
    if time_left is not None:
        end += f", {time_left} left"
    done = f"step {step:>{len(str(max_steps))}} of {max_steps}"
    row.add_row(Text(done, style="bold"), ProgressBar(max_steps, step), Text(end))
    return row


def _numbers(report: ProgressReport) -> Text:
    numbers = report.numbers
    named = {
        "loss": f"{numbers[run_metrics.LOSS.name]:.4f}",
        "cross entropy": f"{numbers[run_metrics.CROSS_ENT_LOSS.name]:.4f}",
    }
    if LEFT_BEHIND in numbers:
        named["left behind"] = f"{100 * numbers[LEFT_BEHIND]:.1f} %"
    if run_metrics.TOKENS_PER_SECOND.name in numbers:
        named["tokens/s"] = f"{numbers[run_metrics.TOKENS_PER_SECOND.name]:,.0f}"
    cells = [Text.assemble(f"{name} ", (value, "cyan")) for name, value in named.items()]
    return Text("   ").join(cells)


def _levels(states: Sequence[LevelState]) -> Table:
    """Returns a table with a row for each name of a level: means over layers, and the worst."""
    rows = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    rows.add_column("level", no_wrap=True)
    for name in ("dropped", "imbalance", "worst"):
        rows.add_column(name, justify="right", no_wrap=True)
    # The column that gives way on a narrow terminal.
    rows.add_column("the worst is at", overflow="ellipsis")
    worst_of_all = max(states, key=lambda state: state.imbalance)
    for level in dict.fromkeys(state.level for state in states):
        same = [state for state in states if state.level == level]
        worst = max(same, key=lambda state: state.imbalance)
        rows.add_row(
            level,
            f"{100 * sum(state.dropped for state in same) / len(same):.1f} %",
            f"{sum(state.imbalance for state in same) / len(same):.2f}",
            f"{worst.imbalance:.2f}",
            worst.layer,
            style="bold" if worst is worst_of_all else "",
        )
    return rows
