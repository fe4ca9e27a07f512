"""The `hmoe` command: what it does first and last, whatever is asked of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hmoe.startup import signals, streams

if TYPE_CHECKING:
    from hmoe.cli.parser import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the command line without the program's name; by default that of the process.

    Returns:
      The exit status, as of `hmoe.cli.launch.run`.
    """
    streams.prepare()
    guard = signals.Guard()
    if argv is None:
        guard.__enter__()  # until the process ends, also while Python tidies up
        status = _run(sys.argv[1:], guard)
        if guard.hard_exit:  # TensorFlow's server cannot be stopped, and may keep the process
            os._exit(status)
        return status
    with guard:
        return _run(argv, guard)


def build_parser() -> Parser:
    """Builds the parser of the command with all its subcommands."""
    from hmoe.cli import parser

    return parser.build_parser()


def _run(arguments: Sequence[str], guard: signals.Guard) -> int:
    # Once signals are handled: before, Ctrl-C would print a traceback.
    from hmoe.cli import subcommands

    try:
        return subcommands.run(list(arguments), guard)
    except KeyboardInterrupt:
        return guard.farewell()
    finally:
        streams.finish()


if __name__ == "__main__":
    sys.exit(main())
