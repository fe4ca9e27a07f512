"""The last lines of a terminal, drawn anew while lines go on above them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from hmoe.startup import streams

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

# Seconds between two drawings that nobody waits for.
MIN_SECONDS = 0.1
# What shows the cursor again.
SHOW_CURSOR = "\x1b[?25h"


def is_possible(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal on which lines can be drawn anew."""
    if not stream.isatty():
        return False
    return os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


class LiveRegion:
    """Draws a picture at the end of a terminal, and prints lines above it.

    Nothing is drawn before the first `show`. Lines may come at any time, also from a signal's
    handler that interrupts a drawing, and from other threads: whoever draws prints them too. There
    is no thread that draws, so that nothing is drawn while nothing happens.

    Colors are left out where `NO_COLOR` is set.

    Args:
      stream: the terminal.
      record: writes a line to the log alone.

    Attributes:
      record: as above; for what only a picture would show, and the next one replace.
      is_open: whether it may draw.
    """

    def __init__(self, stream: TextIO, record: Callable[[str], None]):
        self.record = record
        self._stream = stream
        self._lines: deque[str] = deque()
        self._picture: RenderableType | None = None
        self._live: Live | None = None
        self._drawing = threading.Lock()
        self._drawn = 0.0
        self.is_open = True

    def say(self, line: str) -> None:
        """Prints a line above the picture."""
        self._lines.append(line)
        self._draw()

    @property
    def is_due(self) -> bool:
        """Whether the last drawing is long enough ago for one that nobody waits for."""
        return time.monotonic() - self._drawn >= MIN_SECONDS

    def show(self, picture: RenderableType) -> None:
        """Replaces the picture with what `rich` can draw."""
        self._picture = picture
        self._draw()

    def close(self) -> None:
        """Leaves the last picture where it is, and shows the cursor; lines are plain from then on.

        It may be called more than once, and by a thread that ends the process.
        """
        if not self.is_open:
            return
        self.is_open = False
        # Whoever is drawing may have been interrupted for good.
        has_lock = self._drawing.acquire(timeout=1)
        if has_lock:
            self._draw_locked()
        if self._live is not None:
            with contextlib.suppress(OSError):
                if has_lock:
                    self._live.stop()
                else:
                    print(SHOW_CURSOR, file=self._stream, flush=True)
        if has_lock:
            self._drawing.release()

    def _draw(self) -> None:
        # Not a lock to wait for: a signal's handler would wait for what it interrupts.
        if self._drawing.acquire(blocking=False):
            try:
                self._draw_locked()
            finally:
                self._drawing.release()

    def _draw_locked(self) -> None:
        try:
            if self._live is None and self._picture is not None:
                self._live = _live_on(self._stream)
                self._live.start()
            while self._lines:
                self._print(self._lines.popleft())
            if self._live is not None and self._picture is not None:
                self._live.update(self._picture, refresh=True)
            self._drawn = time.monotonic()
        except OSError as error:  # the terminal is gone
            self.is_open, self._live, self._picture = False, None, None
            streams.silence(self._stream)
            self.record(f"Nothing more is printed: {os.strerror(error.errno or errno.EIO)}")

    def _print(self, line: str) -> None:
        if self._live is None:
            print(line, file=self._stream, flush=True)
        else:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _live_on(stream: TextIO) -> Live:
    # Imported here, since it takes a moment and most commands draw nothing.
    from rich.console import Console
    from rich.live import Live

    console = Console(
        file=stream, force_terminal=True, force_interactive=True, highlight=False, emoji=False
    )
    return Live(
        console=console,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    )
