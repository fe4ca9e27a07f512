"""Reports as lines, or as a table whose lines go to the log."""

from __future__ import annotations

import io

import pytest

from hmoe.startup import live_region
from hmoe.startup.live_region import LiveRegion
from hmoe.t5.sessions import displays
from hmoe.t5.sessions.progress_report import ProgressReport
from tests.screen import Screen

REPORT = ProgressReport(10, 40, {"loss": 1.5, "cross_ent_loss": 1.25})
LINE = "step 10 of 40 | loss 1.5000 | cross_ent_loss 1.2500"


def test_lines_where_there_is_no_region() -> None:
    lines: list[str] = []
    display = displays.display_for(None, lines.append, 40)
    display.show_step(1)
    assert lines == []
    display.show_report(REPORT)
    assert lines == [LINE]


def test_the_bar_moves_with_steps_and_the_numbers_with_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(live_region, "MIN_SECONDS", 0.0)
    recorded: list[str] = []
    terminal = io.StringIO()
    region = LiveRegion(terminal, recorded.append)
    display = displays.display_for(region, pytest.fail, 40)
    display.show_step(9)
    assert Screen(terminal.getvalue()).text.startswith("step  9 of 40 ")
    assert recorded == []
    display.show_report(REPORT)
    display.show_step(20)
    bar, numbers = Screen(terminal.getvalue()).text.splitlines()
    assert (bar[:14], bar[-5:]) == ("step 20 of 40 ", " 50 %")
    assert numbers == "loss 1.5000   cross entropy 1.2500"
    assert recorded == [LINE]
    region.close()


def test_a_step_too_soon_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(live_region, "MIN_SECONDS", 1e9)
    terminal = io.StringIO()
    region = LiveRegion(terminal, lambda line: None)
    display = displays.display_for(region, pytest.fail, 40)
    display.show_report(REPORT)
    display.show_step(20)
    assert Screen(terminal.getvalue()).text.startswith("step 10 of 40 ")
    region.close()
