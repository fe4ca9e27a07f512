"""Completion of the command in shells, by `shtab`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from hmoe.cli import flags, gin_command
from hmoe.cli.parser import Parser

_COMPLETES = {
    flags.FILE: shtab.FILE,
    flags.FOLDER: shtab.DIRECTORY,
    flags.NAME_OR_FILE: shtab.FILE,
}


def script(parser: Parser, shell: str) -> str:
    """Returns a script that completes subcommands, flags, files and folders.

    Args:
      parser: the command's parser.
      shell: "bash", "zsh" or "tcsh".
    """
    for action in _actions(parser):
        if action.metavar in _COMPLETES:
            action.complete = _COMPLETES[action.metavar]  # type: ignore[attr-defined]
        elif action.metavar == flags.GIN_NAME:
            action.choices = gin_command.known_files()
        elif action.nargs == argparse.REMAINDER:  # the command that hmoe launch starts
            action.choices = flags.OF_MANY_PROCESSES
    return shtab.complete(parser, shell=shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yields the flags and arguments of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
