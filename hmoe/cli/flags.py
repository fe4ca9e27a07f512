"""The flags of the subcommands, under the headings of their help pages."""

from __future__ import annotations

import argparse
from typing import Any, Protocol

from hmoe.startup.request import DEFAULT_MODEL_DIR

# Placeholders in the help that also say what a shell completes.
FILE = "FILE"
FOLDER = "FOLDER"
GIN_NAME = "NAME"


class Container(Protocol):
    """What flags can be added to: a parser, or a group of its help."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Adds a flag."""
        ...


def names(text: str) -> list[str]:
    """Returns the names in a list with commas; for an empty text, one empty name."""
    return [name for name in text.split(",") if name] or [""]


def boolean(text: str) -> bool:
    """Returns the value of a boolean flag."""
    if text.lower() in ("true", "t", "1", "yes"):
        return True
    if text.lower() in ("false", "f", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"is {text!r}; it must be true or false")


def steps(text: str) -> int:
    """Returns the value of a flag that is a number of steps; its range is checked later."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"is {text!r}; it must be an integer of at least 1"
        ) from None


def add_switch(parser: Container, name: str, text: str) -> None:
    """Adds a boolean flag as absl defines them: --name, --name=false, --noname."""
    parser.add_argument(
        f"--{name}", type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text
    )
    parser.add_argument(f"--no{name}", dest=name, action="store_false", help=argparse.SUPPRESS)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that all subcommands with a model have."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_dir",
        metavar=FOLDER,
        help=f"folder of checkpoints, curves and log (default: {DEFAULT_MODEL_DIR}; for training, "
        "runs/ and the name of the last gin file or of the data)",
    )
    configuration = parser.add_argument_group("configuration")
    _add_gin_files(configuration)
    _add_names(configuration)
    _add_task_folders(parser.add_argument_group("data of T5's tasks"))
    _add_tpu(parser.add_argument_group("TPU (TensorFlow 2.15 only)"))


def _add_gin_files(group: Container) -> None:
    add = group.add_argument
    add(
        "--gin_file",
        action="append",
        default=[],
        metavar=FILE,
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
        type=names,
        default=[],
        metavar="FOLDERS",
        help="comma-separated folders to look for gin files in",
    )


def _add_names(group: Container) -> None:
    add = group.add_argument
    add(
        "--module_import",
        action="append",
        default=None,
        metavar="MODULE",
        help="a Python module to import first, for your own tasks; may be repeated "
        "(default: t5.data.mixtures if there is a --gin_file)",
    )
    add_switch(group, "skip_all_gin_unknowns", "ignore gin names that no module defines")
    add_switch(
        group, "strict", "make unused macros, scopes and bindings of your gin files an error"
    )
    add(
        "--additional_deprecated_gin_references",
        type=names,
        default=[],
        metavar="NAMES",
        help="comma-separated gin names to ignore",
    )


def _add_task_folders(group: Container) -> None:
    data = group.add_argument
    data("--t5_tfds_data_dir", metavar=FOLDER, help="folder of TensorFlow Datasets")
    data(
        "--additional_task_cache_dirs",
        type=names,
        default=[],
        metavar="FOLDERS",
        help="comma-separated folders with cached tasks",
    )


def _add_tpu(group: Container) -> None:
    add = group.add_argument
    add("--tpu", metavar="TPU", help="a TPU's name or address")
    add("--tpu_job_name", metavar="JOB", help="name of the TPU's worker job")
    add("--tpu_zone", metavar="ZONE", help="zone of the TPU")
    add("--gcp_project", metavar="PROJECT", help="project of the TPU")


def add_train(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe train`."""
    training = parser.add_argument_group("training")
    training.add_argument(
        "--train_steps",
        type=steps,
        metavar="N",
        help="total number of steps, in place of gin's utils.run.train_steps",
    )
    add_switch(
        training, "evaluate", "evaluate at the end (default: for the default job and with --data)"
    )
    parser.set_defaults(evaluate=None)
    resuming = parser.add_argument_group("resuming a run")
    add_switch(
        resuming,
        "force",
        "resume with another configuration, although the result will not be the run's own",
    )
    add_switch(
        resuming,
        "overwrite",
        "begin anew in a folder that holds checkpoints; they are moved to a subfolder",
    )
    _add_own_data(parser.add_argument_group("your own data, without code"))


def _add_own_data(group: Container) -> None:
    add = group.add_argument
    add(
        "--data",
        metavar=FILE,
        help="pairs.tsv (input, tab, target) or text.txt (running text, for span corruption)",
    )
    add("--validation_data", metavar=FILE, help="data to evaluate on, in the same format")
    add("--vocabulary", metavar=FILE, help="a SentencePiece model (default: bytes)")
    add(
        "--data_format",
        choices=("pairs", "text"),
        help="what the data holds (default: pairs for .tsv, text for .txt)",
    )
    add_switch(group, "skip_bad_lines", "skip bad lines of the data, and count them")


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe predict`."""
    lines = parser.add_argument_group("lines to answer")
    lines.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help="a line to answer, each its own; without it, a prompt, or the lines of standard input",
    )
    lines.add_argument("--input_file", metavar=FILE, help="file with lines to answer")
    lines.add_argument("--output_file", metavar=FILE, help="file to write the answers to")


def add_score(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe score`."""
    lines = parser.add_argument_group("lines to score")
    lines.add_argument("--input_file", metavar=FILE, help="file with the inputs, one on a line")
    lines.add_argument("--target_file", metavar=FILE, help="file with the targets, one on a line")
    lines.add_argument(
        "--output_file",
        metavar=FILE,
        help="write FILE.scores, FILE.inputs, FILE.targets and FILE.lengths",
    )


def add_export(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe export`."""
    group = parser.add_argument_group("the exported model")
    group.add_argument("--export_dir", metavar=FOLDER, help="default: model_dir/export")


def add_rewriting(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe split` and `hmoe merge`."""
    group = parser.add_argument_group("the rewritten model")
    group.add_argument(
        "--output_dir",
        metavar=FOLDER,
        required=True,
        help="a new folder for the model, which leaves out the optimizer's variables",
    )


def check(flags: argparse.Namespace) -> None:
    """Exits with a message if flags do not go together."""
    data_flags = ("validation_data", "vocabulary", "data_format", "skip_bad_lines")
    if flags.command == "train" and flags.data is None:
        given = [name for name in data_flags if getattr(flags, name)]
        if given:
            flags.parser.error(f"--{given[0]} goes with --data")
    if flags.command == "predict" and flags.text and flags.input_file is not None:
        flags.parser.error("give either a text or --input_file")
    if flags.command == "predict" and flags.output_file and flags.input_file is None:
        flags.parser.error("--output_file goes with --input_file")
    if flags.command == "score" and flags.output_file and flags.target_file is None:
        flags.parser.error("--output_file goes with --target_file")
