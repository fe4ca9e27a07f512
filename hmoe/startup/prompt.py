"""Asks a user at a terminal for lines, with line editing and a history."""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterator

from hmoe.startup import signals
from hmoe.startup.console import Console

PROMPT = "> "


def ask(console: Console) -> str | None:
    """Asks for a line; the arrow keys bring back earlier ones of this process.

    The history stands in memory alone: what is asked of a model may be nobody else's business.

    Args:
      console: prints the prompt if standard output is not the terminal.

    Returns:
      The line, without its end; None at the end of the input (Ctrl-D).

    Raises:
      KeyboardInterrupt: the user pressed Ctrl-C.
    """
    line = None
    try:
        # A signal between the prompt and the wait for a key interrupts neither: the guard ends the
        # process then, and its line must not stand behind the prompt.
        with signals.cleanup(lambda: console.say("")), _terminal_put_back():
            line = _edited_line() if _can_edit(console) else _plain_line(console)
    finally:
        if line is None:
            console.say("")  # What is printed next begins a line of its own.
    return line


def _can_edit(console: Console) -> bool:
    """Returns whether there is readline, which writes the prompt to standard output.

    Without it Python writes the prompt to standard error, which is the log.
    """
    if not console.answers_reach_a_terminal:
        return False
    try:
        import readline
    except ImportError:
        return False
    readline.parse_and_bind("tab: self-insert")  # There are no names to complete.
    return True


def _edited_line() -> str | None:
    try:
        return input(PROMPT)
    except EOFError:
        return None


def _plain_line(console: Console) -> str | None:
    console.prompt(PROMPT)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


@contextlib.contextmanager
def _terminal_put_back() -> Iterator[None]:
    """Restores the terminal's settings, which line editing changes, if the process is ended."""
    if not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    settings = termios.tcgetattr(number)
    with signals.cleanup(lambda: termios.tcsetattr(number, termios.TCSANOW, settings)):
        yield
