"""Signals as a command of a terminal finds them, however the tests were started."""

from __future__ import annotations

import signal


def as_in_a_terminal() -> None:
    """Lets the signals that end a command do so: `nohup` and a shell's `&` ignore some of them.

    To be run in the process of a command before it begins.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
