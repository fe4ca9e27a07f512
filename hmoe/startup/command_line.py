"""Commands to recommend, such that they work as printed: the program's path, quoted folders."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

PROGRAM = "hmoe"


def command(subcommand: str, *arguments: str, **flags: str) -> str:
    """Returns a line for the user's shell.

    Args:
      subcommand: such as "predict".
      *arguments: what comes after the flags.
      **flags: values by the names of flags, such as model_dir="runs/default".

    Returns:
      A line such as `.venv/bin/hmoe predict --model_dir='my runs/a'`.
    """
    words = [f"--{name}={shlex.quote(value)}" for name, value in flags.items()]
    return " ".join([program(), subcommand, *words, *map(shlex.quote, arguments)])


def program() -> str:
    """Returns the name of this program for the user's shell: its path if a shell would not find it.

    Run as a module, which is for developers, it is just `hmoe`.
    """
    called = sys.argv[0]
    if os.path.basename(called) != PROGRAM or not os.path.isfile(called):
        return PROGRAM
    return _for_shell(called)


def beside_program(name: str) -> str | None:
    """Returns another program for the user's shell, found on its path or beside this one, or None.

    Args:
      name: such as "tensorboard".
    """
    folders = [os.path.dirname(os.path.abspath(sys.argv[0])), os.path.dirname(sys.executable)]
    for path in [shutil.which(name), *(os.path.join(folder, name) for folder in folders)]:
        if path and os.access(path, os.X_OK) and os.path.isfile(path):
            return _for_shell(path)
    return None


def _for_shell(path: str) -> str:
    name = os.path.basename(path)
    found = shutil.which(name)
    if found and os.path.realpath(found) == os.path.realpath(path):
        return name
    if os.path.isabs(path):
        below = os.path.relpath(path)
        path = path if below.startswith(os.pardir) else below
    return shlex.quote(path if os.path.dirname(path) else os.path.join(os.curdir, path))
