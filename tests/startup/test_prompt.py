"""The prompt of `hmoe predict`, when the process is ended while it waits."""

from __future__ import annotations

import builtins
import io

import pytest

from hmoe.startup import prompt, signals
from hmoe.startup.console import Console


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_begins_behind_the_prompt_when_the_guard_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C between the prompt and the wait for a key wakes nobody up: the guard's thread ends it.

    Its cleanups are called here at the moment at which it would call them.
    """
    guard, out = signals.Guard(), Terminal()
    monkeypatch.setattr(signals, "_active", guard)

    def wait(text: str) -> str:
        out.write(text)
        signals._call(guard._cleanups)
        return "never read"

    monkeypatch.setattr(builtins, "input", wait)
    prompt.ask(Console(out, out))
    assert out.getvalue() == "> \n"
