"""The `hmoe` command line: subcommands, with the flags of T5's own command, and their help.

Help and errors of the command line are printed before TensorFlow is imported, which takes seconds.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from hmoe.cli import launch
from hmoe.startup.request import DEFAULT_MODEL_DIR, Request
from hmoe.version import __version__

_EPILOG = """\
The flags are those of T5's own command (t5_mesh_transformer), so its command lines work here.
A gin file is looked for in the current folder, then in the folders of --gin_location_prefix, among
T5's gin files, and among those of this package (models/, layouts/, tasks/, runs/).
"""


class Parser(argparse.ArgumentParser):
    """A parser that suggests which flag an unknown one may have meant."""

    def error(self, message: str) -> NoReturn:
        """Exits with a message, to which it adds a suggestion for an unknown flag."""
        if message.startswith("unrecognized arguments: "):
            unknown = message[len("unrecognized arguments: ") :].split()[0].split("=")[0]
            flags = re.findall(r"--\w+", self.format_help())
            close = difflib.get_close_matches(unknown, flags, n=1)
            if close:
                message += f"; did you mean {close[0]}?"
        super().error(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses a command line, and reports unknown flags with the usage of their subcommand."""
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(namespace, "parser", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace


class Container(Protocol):
    """What flags can be added to: a parser, or a group of its help."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Adds a flag."""
        ...


class SubParsers(Protocol):
    """The subcommands of a parser, for which `argparse` has no public type."""

    def add_parser(self, name: str, **settings: Any) -> Parser:
        """Adds a subcommand."""
        ...


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "t", "1", "yes"):
        return True
    if text.lower() in ("false", "f", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def _add_switch(parser: Container, name: str, text: str) -> None:
    """Adds a boolean flag as absl defines them: --name, --name=false, --noname."""
    parser.add_argument(
        f"--{name}", type=_boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text
    )
    parser.add_argument(f"--no{name}", dest=name, action="store_false", help=argparse.SUPPRESS)


def _common_flags() -> Parser:
    """Returns the flags that all subcommands have."""
    parser = Parser(add_help=False, allow_abbrev=False)
    _add_configuration(parser.add_argument_group("configuration"))
    _add_task_folders(parser.add_argument_group("data of T5's tasks"))
    _add_machine(parser.add_argument_group("machine"))
    return parser


def _add_gin_files(group: Container) -> None:
    add = group.add_argument
    add(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file; may be repeated, and later ones win",
    )
    add(
        "--gin_param",
        action="append",
        default=[],
        metavar="BINDING",
        help="a line of gin, such as utils.run.train_steps=100; may be repeated",
    )
    add(
        "--gin_location_prefix",
        type=_names,
        default=[],
        metavar="FOLDERS",
        help="comma-separated folders to look for gin files in",
    )


def _add_configuration(group: Container) -> None:
    _add_gin_files(group)
    add = group.add_argument
    add(
        "--module_import",
        action="append",
        default=None,
        metavar="MODULE",
        help="a Python module to import first, for your own tasks; may be repeated "
        "(default: t5.data.mixtures if there is a --gin_file)",
    )
    add(
        "--model_dir",
        metavar="FOLDER",
        help=f"folder of checkpoints, curves and log (default: {DEFAULT_MODEL_DIR}; for training, "
        "runs/ and the name of the last gin file or of the data)",
    )
    _add_switch(group, "skip_all_gin_unknowns", "ignore gin names that no module defines")
    _add_switch(
        group, "strict", "make unused macros, scopes and bindings of your gin files an error"
    )
    add(
        "--additional_deprecated_gin_references",
        type=_names,
        default=[],
        metavar="NAMES",
        help="comma-separated gin names to ignore",
    )


def _add_task_folders(group: Container) -> None:
    data = group.add_argument
    data("--t5_tfds_data_dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    data(
        "--additional_task_cache_dirs",
        type=_names,
        default=[],
        metavar="FOLDERS",
        help="comma-separated folders with cached tasks",
    )


def _add_machine(group: Container) -> None:
    machine = group.add_argument
    machine("--tpu", metavar="NAME", help="a TPU's name or address (TensorFlow 2.15 only)")
    machine("--tpu_job_name", metavar="NAME", help="name of the TPU's worker job")
    machine("--tpu_zone", metavar="ZONE", help="zone of the TPU")
    machine("--gcp_project", metavar="PROJECT", help="project of the TPU")


def build_parser() -> Parser:
    """Builds the parser of the command with all its subcommands."""
    parser = Parser(
        prog="hmoe",
        description="Trains and uses a T5 with a hierarchical mixture of experts.",
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hmoe {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    common = [_common_flags()]
    _add_train(commands, common)
    _add_command(commands, common, "eval", "score a trained model on held-out examples")
    _add_predict(commands, common)
    _add_score(commands, common)
    export = _add_command(commands, common, "export", "write a SavedModel for serving")
    export.add_argument("--export_dir", metavar="FOLDER", help="default: model_dir/export")
    _add_rewriting(
        commands, common, "split", "rewrite a model with separate variables for each expert"
    )
    _add_rewriting(
        commands, common, "merge", "rewrite a model with all experts of a layer in one variable"
    )
    return parser


def _add_command(
    commands: SubParsers, common: list[Parser], name: str, text: str, positional: str = ""
) -> Parser:
    parser = commands.add_parser(
        name,
        help=text,
        usage=f"hmoe {name} [FLAG ...]{positional}",
        description=f"{text[0].upper()}{text[1:]}.",
        parents=common,
        allow_abbrev=False,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser)
    return parser


def _add_train(commands: SubParsers, common: list[Parser]) -> None:
    train = _add_command(
        commands,
        common,
        "train",
        "train a model; with no flags, the default job (runs/default.gin)",
    )
    train.add_argument(
        "--train_steps",
        type=int,
        metavar="N",
        help="total number of steps, in place of gin's utils.run.train_steps",
    )
    _add_switch(
        train, "evaluate", "evaluate at the end (default: for the default job and with --data)"
    )
    train.set_defaults(evaluate=None)
    _add_switch(
        train,
        "force",
        "resume with another configuration, although the result will not be the run's own",
    )
    _add_switch(
        train,
        "overwrite",
        "begin anew in a folder that holds checkpoints; they are moved to a subfolder",
    )
    own = train.add_argument_group("your own data, without code")
    own.add_argument(
        "--data",
        metavar="FILE",
        help="pairs.tsv (input, tab, target) or text.txt (running text, for span corruption)",
    )
    own.add_argument(
        "--validation_data", metavar="FILE", help="data to evaluate on, in the same format"
    )
    own.add_argument("--vocabulary", metavar="FILE", help="a SentencePiece model (default: bytes)")
    _add_switch(own, "skip_bad_lines", "skip bad lines of the data, and count them")


def _add_predict(commands: SubParsers, common: list[Parser]) -> None:
    predict = _add_command(
        commands, common, "predict", "answer lines of text", positional=" [TEXT ...]"
    )
    predict.add_argument(
        "text",
        nargs="*",
        help="a line to answer; without it, a prompt, or the lines of standard input",
    )
    predict.add_argument("--input_file", metavar="FILE", help="file with lines to answer")
    predict.add_argument("--output_file", metavar="FILE", help="file to write the answers to")


def _add_score(commands: SubParsers, common: list[Parser]) -> None:
    score = _add_command(
        commands, common, "score", "print the log likelihood of each given target, in nats"
    )
    score.add_argument("--input_file", metavar="FILE", help="file with the inputs, one on a line")
    score.add_argument("--target_file", metavar="FILE", help="file with the targets, one on a line")
    score.add_argument(
        "--output_file",
        metavar="FILE",
        help="write FILE.scores, FILE.inputs, FILE.targets and FILE.lengths",
    )


def _add_rewriting(commands: SubParsers, common: list[Parser], name: str, text: str) -> None:
    parser = _add_command(commands, common, name, text)
    parser.add_argument(
        "--output_dir",
        metavar="FOLDER",
        required=True,
        help="a new folder for the model, which leaves out the optimizer's variables",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      argv: the command line without the program's name; by default that of the process.

    Returns:
      The exit status: 0, 1 for an error, 130 if the user interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    flags = parser.parse_args(arguments)
    if flags.command is None:
        parser.print_help()
        return 0
    _check(flags)
    return launch.run(Request.from_flags(flags))


def _check(flags: argparse.Namespace) -> None:
    """Exits with a message if flags do not go together."""
    data_flags = ("validation_data", "vocabulary", "skip_bad_lines")
    if flags.command == "train" and not flags.data:
        given = [name for name in data_flags if getattr(flags, name)]
        if given:
            flags.parser.error(f"--{given[0]} goes with --data")
    if flags.command == "predict" and flags.text and flags.input_file:
        flags.parser.error("give either a text or --input_file")
    if flags.command == "predict" and flags.output_file and not flags.input_file:
        flags.parser.error("--output_file goes with --input_file")
    if flags.command == "score" and flags.output_file and not flags.target_file:
        flags.parser.error("--output_file goes with --target_file")


if __name__ == "__main__":
    sys.exit(main())
