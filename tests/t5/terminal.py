"""A terminal at which a test sits: it reads what a command prints there, and types."""

from __future__ import annotations

import os
import pty
import select
import termios
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from tests import patience

CTRL_C = "\x03"
CTRL_D = "\x04"
ARROW_UP = "\x1b[A"


class Terminal:
    """A pseudo terminal and the command that runs on it.

    Args:
      run: runs the command on the terminal with a path, and returns its exit status.
    """

    def __init__(self, run: Callable[[str], int]):
        self._master, slave = pty.openpty()
        _keep_output_at_ctrl_c(slave)
        path = os.ttyname(slave)
        self.seen = ""
        self.status: int | None = None

        def work() -> None:
            self.status = run(path)
            os.close(slave)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def read_until(self, text: str, seconds: float = patience.HANG) -> str:
        """Returns what was printed since the last call, up to a text."""
        end = time.time() + seconds
        while text not in self.seen:
            if time.time() > end:
                self._give_up(f"{text!r} does not come")
            assert self._thread.is_alive(), f"{text!r} did not come: {self.seen!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += self._read()
        before, found, self.seen = self.seen.partition(text)
        return before + found

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self._master, text.encode())

    def end(self, seconds: float = patience.HANG) -> str:
        """Waits for the command to end, and returns what it printed since."""
        end = time.time() + seconds
        while self._thread.is_alive() or select.select([self._master], [], [], 0)[0]:
            if time.time() > end:
                self._give_up("it does not end")
            if select.select([self._master], [], [], 0.1)[0]:
                text = self._read()
                if not text:
                    break
                self.seen += text
        self._thread.join(seconds)
        os.close(self._master)
        return self.seen

    def _give_up(self, why: str) -> NoReturn:
        """Hangs up, which ends the command, so that the next test finds its server free."""
        os.close(self._master)
        raise AssertionError(f"{why}: {self.seen!r}")

    def _read(self) -> str:
        try:
            return os.read(self._master, 4096).decode("utf-8", "replace")
        except OSError:  # all of its users are gone
            return ""


def _keep_output_at_ctrl_c(number: int) -> None:
    """Keeps what a test has not read yet, which a terminal would drop; a person's has read all."""
    attributes = termios.tcgetattr(number)
    attributes[3] |= termios.NOFLSH
    termios.tcsetattr(number, termios.TCSANOW, attributes)
