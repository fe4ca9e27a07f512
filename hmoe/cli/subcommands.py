"""Runs what a command line asks for: help, gin files and completion here, models in `launch`."""

from __future__ import annotations

import argparse
import sys

from hmoe.cli import flags as flags_lib
from hmoe.cli import gin_command, launch, launch_command
from hmoe.cli.parser import Parser, build_parser
from hmoe.startup import streams
from hmoe.startup.exit_statuses import BAD_INPUT, OK, READER_GONE
from hmoe.startup.request import Request
from hmoe.startup.signals import Guard


def run(arguments: list[str], guard: Guard) -> int:
    """Runs a command line.

    Args:
      arguments: the words after the program's name.
      guard: handles signals.

    Returns:
      The exit status, as of `launch.run`.

    Raises:
      SystemExit: the command line is wrong (2), or asked for help (0).
    """
    parser = build_parser()
    flags = parser.parse_args(arguments)
    if flags.command in ("gin", "report", "completion", "help", None):
        return _run_printing(parser, flags)
    if flags.command == "launch":
        return launch_command.run(parser, flags, guard)
    flags_lib.check(flags)
    if flags.command == "trace" and flags.compare:
        return _run_printing(parser, flags)
    try:
        request = Request.from_flags(flags)
        _check_hardware(request)
    except ValueError as error:
        print(launch.describe(error, None), file=sys.stderr)
        return BAD_INPUT
    return launch.run(request, guard)


def _check_hardware(request: Request) -> None:
    """Checks the hardware that a plan names, before TensorFlow is loaded."""
    if request.plan is not None and request.plan.hardware:  # an empty one has its own message
        from hmoe.plan import hardware

        hardware.check(request.plan.hardware)


def _run_printing(parser: Parser, flags: argparse.Namespace) -> int:
    """Runs a command that loads no TensorFlow."""
    try:
        _print(parser, flags)
        sys.stdout.flush()
    except BrokenPipeError:
        streams.silence(sys.stdout)
        return READER_GONE
    except (ValueError, OSError) as error:
        print(launch.describe(error, None), file=sys.stderr)
        return BAD_INPUT
    return OK


def _print(parser: Parser, flags: argparse.Namespace) -> None:
    if flags.command == "gin":
        gin_command.run(flags)
    elif flags.command == "report":
        from hmoe.report import make

        make.report(flags.model_dir, print, flags.trace, flags.against, flags.output)
    elif flags.command == "trace":
        from hmoe.cli import compare_command

        compare_command.run(flags)
    elif flags.command == "completion":
        from hmoe.cli import completion

        print(completion.script(parser, flags.shell))
    elif flags.command == "help" and flags.topic:
        parser.parse_args([*flags.topic, "--help"])
    else:
        parser.print_help()
