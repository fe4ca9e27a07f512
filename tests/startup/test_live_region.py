"""A picture at the end of a terminal, and lines above it."""

from __future__ import annotations

import io
import os
import pty
import threading

import pytest
from rich.text import Text

from hmoe.startup import live_region
from hmoe.startup.console import Console
from hmoe.startup.live_region import LiveRegion
from tests.screen import Screen


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("COLORTERM", raising=False)


def test_lines_go_above_the_picture_and_stay() -> None:
    terminal = Terminal()
    console = Console(out=terminal, errors=terminal)
    console.say("before")
    with console.live() as region:
        assert region is not None
        console.say("before the picture")
        region.show(Text("one\ntwo"))
        console.say("Saved [bold]x[/bold] :smile:" + " and a long line" * 20)
        region.show(Text("three\nfour"))
        console.error("an error")
    console.say("after")
    screen = Screen(terminal.getvalue())
    assert screen.text.splitlines() == [
        "before",
        "before the picture",
        "Saved [bold]x[/bold] :smile:" + " and a long line" * 20,
        "an error",
        "three",
        "four",
        "after",
    ]
    assert screen.shows_cursor


def test_the_cursor_is_hidden_while_there_is_a_picture() -> None:
    terminal = Terminal()
    with Console(out=terminal).live() as region:
        assert region is not None
        assert Screen(terminal.getvalue()).shows_cursor
        region.show(Text("one"))
        assert not Screen(terminal.getvalue()).shows_cursor
    assert Screen(terminal.getvalue()).shows_cursor


def test_an_error_leaves_the_terminal_in_order() -> None:
    terminal = Terminal()
    console = Console(out=terminal)

    def fail() -> None:
        with console.live() as region:
            assert region is not None
            region.show(Text("one"))
            raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="^wrong$"):
        fail()
    console.say("after")
    screen = Screen(terminal.getvalue())
    assert (screen.text, screen.shows_cursor) == ("one\nafter", True)


def test_a_drawing_is_due_a_moment_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(live_region.time, "monotonic", lambda: now)
    region = LiveRegion(Terminal(), print)
    assert region.is_due
    region.show(Text("one"))
    now += 0.09
    assert not region.is_due
    now += 0.02
    assert region.is_due
    region.close()


class Interrupted(Terminal):
    """Lets something happen in the middle of the next write, as a signal's handler does."""

    def __init__(self) -> None:
        super().__init__()
        self.handler = lambda: None

    def write(self, text: str) -> int:
        handler, self.handler = self.handler, lambda: None
        handler()
        return super().write(text)


def test_a_line_of_a_signal_that_interrupts_a_drawing_comes_after_it() -> None:
    terminal = Interrupted()
    region = LiveRegion(terminal, print)
    region.show(Text("one"))
    terminal.handler = lambda: region.say("Stopping")
    region.say("Saved")
    region.close()
    assert Screen(terminal.getvalue()).text == "Saved\nStopping\none"


def test_a_process_that_ends_while_a_drawing_hangs_shows_the_cursor() -> None:
    terminal = Interrupted()
    region = LiveRegion(terminal, print)
    region.show(Text("one"))
    closing = threading.Thread(target=region.close)

    def hang() -> None:
        closing.start()
        closing.join(10)

    terminal.handler = hang
    region.say("line")
    assert live_region.SHOW_CURSOR in terminal.getvalue()


@pytest.mark.parametrize("name", ["", "dumb", "DUMB", "unknown"])
def test_no_picture_on_a_terminal_that_cannot_move_its_cursor(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TERM", name)
    terminal = Terminal()
    console = Console(out=terminal)
    with console.live() as region:
        assert region is None
        console.say("line")
    assert terminal.getvalue() == "line\n"


def test_no_picture_in_a_file_nor_of_a_quiet_process() -> None:
    file = io.StringIO()
    with Console(out=file).live() as region:
        assert region is None
    with Console(out=Terminal(), quiet=True).live() as region:
        assert region is None


def test_errors_for_a_file_stay_there() -> None:
    terminal, file = Terminal(), io.StringIO()
    console = Console(out=terminal, errors=file)
    with console.live() as region:
        assert region is not None
        region.show(Text("one"))
        console.error("wrong")
    assert file.getvalue() == "wrong\n"
    assert "wrong" not in terminal.getvalue()


@pytest.mark.parametrize(("no_color", "colors"), [(None, {"36"}), ("1", set())])
def test_colors(monkeypatch: pytest.MonkeyPatch, no_color: str | None, colors: set[str]) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal()
    region = LiveRegion(terminal, print)
    region.show(Text("one", style="cyan"))
    region.close()
    assert Screen(terminal.getvalue()).colors == colors


@pytest.fixture
def closed_terminal() -> int:
    """A terminal whose window is gone."""
    master, slave = pty.openpty()
    os.close(master)
    return slave


def test_a_terminal_that_is_gone_ends_nothing(closed_terminal: int) -> None:
    recorded: list[str] = []
    with os.fdopen(closed_terminal, "w", encoding="utf-8") as stream:
        region = LiveRegion(stream, recorded.append)
        region.show(Text("one"))
        region.say("line")
        region.close()
    assert recorded == ["Nothing more is printed: Input/output error"]
