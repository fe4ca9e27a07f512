"""The `hmoe` command line: subcommands, with the flags of T5's own command, and their help.

Help and errors of the command line are printed before TensorFlow is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from hmoe.cli import flags, help_texts
from hmoe.startup.suggestions import nearest
from hmoe.version import __version__

# Subcommands that run a model, and what adds the flags of each.
MODEL_COMMANDS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "train": flags.add_train,
    "eval": lambda parser: None,
    "predict": flags.add_predict,
    "score": flags.add_score,
    "trace": flags.add_trace,
    "ablate": flags.add_ablate,
    "export": flags.add_export,
    "split": flags.add_rewriting,
    "merge": flags.add_rewriting,
}
# The flag that a file without a flag is likely meant for, by the end of its name.
_FLAGS_OF_FILES = {".gin": "--gin_file", ".tsv": "--data", ".txt": "--data"}
SHELLS = ("bash", "zsh", "tcsh")


class Parser(argparse.ArgumentParser):
    """A parser that suggests which command, flag or value an unknown one may have meant."""

    def __init__(self, **settings: Any):
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Exits with a message, to which it adds a suggestion for an unknown name."""
        unknown = re.search(r"^argument (\S+): invalid choice: '([^']*)'", message)
        if unknown:
            message = self._unknown_choice(*unknown.groups())
        # The values of flags get messages like those of other checks.
        super().error(re.sub(r"^argument (--?\w+): is ", r"\1 is ", message))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses a command line, and reports unknown flags with the usage of their subcommand."""
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(namespace, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{parser.advice(unknown[0])}")
        return namespace

    def advice(self, word: str) -> str:
        """Returns a phrase that says how a word may have been meant that is no argument."""
        name = re.split("[= ]", word)[0]
        commands = {each.prog: each.flags() for each in [self, *self._subparsers_of()]}
        command = next((prog for prog, known in commands.items() if name in known), self.prog)
        known = commands[command]
        if name in known and " " in word.split("=")[0]:
            first, _, rest = word.partition(" ")
            return f"; {word!r} is one word, write {first}={shlex.quote(rest.strip())}"
        if name in known:
            return f"; flags come after the command: {command} {shlex.quote(word)}"
        flag = _FLAGS_OF_FILES.get(os.path.splitext(word)[1])
        if flag in known and not word.startswith("-"):
            return f"; did you mean '{flag}={word}'?"
        return nearest(name, known)

    def flags(self) -> list[str]:
        """Returns the flags that the help page shows."""
        shown = [each for each in self._actions if each.help != argparse.SUPPRESS]
        return [name for each in shown for name in each.option_strings if name.startswith("--")]

    def _subparsers_of(self) -> list[Parser]:
        found = [each.choices for each in self._actions if isinstance(each.choices, dict)]
        return [each for choices in found for each in choices.values()]

    def _unknown_choice(self, placeholder: str, name: str) -> str:
        if not placeholder.startswith("-") and name.startswith("-"):  # a flag with a space in it
            return f"unrecognized arguments: {name}{self.advice(name)}"
        choices = [
            str(choice)
            for action in self._actions
            if placeholder in (action.metavar, *action.option_strings) and action.choices
            for choice in action.choices
        ]
        if placeholder.startswith("-"):
            return f"{placeholder} is {name!r}; choose from {', '.join(choices)}"
        meant = nearest(name, choices) or f"; choose from {', '.join(choices)}"
        return f"unknown {placeholder.lower()} {name!r}{meant}"


class SubParsers(Protocol):
    """The subcommands of a parser, for which `argparse` has no public type."""

    def add_parser(self, name: str, **settings: Any) -> Parser:
        """Adds a subcommand."""
        ...


def build_parser() -> Parser:
    """Builds the parser of the command with all its subcommands."""
    parser = Parser(
        prog="hmoe",
        description="Trains and uses a T5 with a hierarchical mixture of experts.",
        epilog=f"{help_texts.examples(help_texts.MAIN_EXAMPLES)}\n\n{help_texts.EPILOG}",
    )
    parser.add_argument("-V", "--version", action="version", version=f"hmoe {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, add_flags in MODEL_COMMANDS.items():
        _add_model_command(commands, name, add_flags)
    plan = help_texts.COMMANDS["plan"]
    flags.add_plan(_add_command(commands, "plan", " [FLAG ...]", plan, help_texts.WHERE_FILES_ARE))
    flags.add_report(_add_command(commands, "report", " [FLAG ...]", help_texts.COMMANDS["report"]))
    usage = " [FLAG ...] -- COMMAND ..."
    flags.add_launch(_add_command(commands, "launch", usage, help_texts.COMMANDS["launch"]))
    _add_gin(commands)
    completion = _add_command(commands, "completion", " SHELL", help_texts.COMMANDS["completion"])
    completion.add_argument("shell", metavar="SHELL", choices=SHELLS, help=" or ".join(SHELLS))
    helping = _add_command(commands, "help", " [COMMAND ...]", help_texts.COMMANDS["help"])
    helping.add_argument("topic", nargs="*", metavar="COMMAND", help="such as train, or gin copy")
    return parser


def _add_model_command(
    commands: SubParsers, name: str, add_flags: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Adds a command that runs a model: its own flags first, then those that all have."""
    usage = " [FLAG ...] [TEXT ...]" if name in ("predict", "trace") else " [FLAG ...]"
    parser = _add_command(commands, name, usage, help_texts.COMMANDS[name], help_texts.EPILOG)
    add_flags(parser)
    flags.add_common(parser)
    if name in flags.OF_MANY_PROCESSES:
        flags.add_workers(parser)


def _add_command(
    commands: SubParsers,
    name: str,
    usage: str,
    texts: tuple[str, tuple[str, ...]],
    epilog: str = "",
    prefix: str = "hmoe",
) -> Parser:
    line, examples = texts
    parser = commands.add_parser(
        name,
        help=line,
        usage=f"{prefix} {name}{usage}",
        description=help_texts.sentence(line),
        epilog=f"{help_texts.examples(examples)}\n\n{epilog}".rstrip("\n"),
    )
    parser.set_defaults(parser=parser)
    return parser


def _add_gin(commands: SubParsers) -> None:
    """Adds the command about gin files, with its own subcommands."""
    gin = _add_command(commands, "gin", " ACTION ...", help_texts.COMMANDS["gin"])
    actions = gin.add_subparsers(
        dest="action", metavar="ACTION", parser_class=Parser, required=True, prog="hmoe gin"
    )
    texts = help_texts.GIN_COMMANDS
    listing = _add_command(actions, "list", " [PART]", texts["list"], prefix="hmoe gin")
    listing.add_argument("part", nargs="?", metavar="PART", help="models, layouts, tasks or runs")
    show = _add_command(actions, "show", " [--whole] NAME", texts["show"], prefix="hmoe gin")
    show.add_argument("name", metavar=flags.GIN_NAME, help="such as runs/default.gin, or tiny")
    show.add_argument(
        "--whole", action="store_true", help="with the files that it includes in their places"
    )
    copy = _add_command(actions, "copy", " NAME [FILE]", texts["copy"], prefix="hmoe gin")
    copy.add_argument("name", metavar=flags.GIN_NAME, help="such as runs/default.gin, or tiny")
    copy.add_argument(
        "target", nargs="?", metavar=flags.FILE, help="a new file, or a folder (default: this one)"
    )
