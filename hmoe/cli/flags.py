"""The flags of the subcommands, under the headings of their help pages."""

from __future__ import annotations

import argparse
import math
import os
from typing import Any, Protocol

from hmoe.startup import platforms, tf_config, workers
from hmoe.startup.request import DEFAULT_MODEL_DIR

# Placeholders in the help that also say what a shell completes.
FILE = "FILE"
FOLDER = "FOLDER"
GIN_NAME = "NAME"
NAME_OR_FILE = "NAME_OR_FILE"

# Commands that many processes can run together.
OF_MANY_PROCESSES = ("train", "eval", "predict", "score", "trace")


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


def from_zero(text: str) -> int:
    """Returns the value of a flag that is a number of a process, or counts from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be an integer from 0")
    return int(text)


def count(text: str) -> int:
    """Returns the value of a flag that counts."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be an integer of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """Returns the value of a flag that is a time."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be a number of seconds above 0")
    return value


def add_switch(parser: Container, name: str, text: str) -> None:
    """Adds a boolean flag as absl defines them: --name, --name=false, --noname."""
    parser.add_argument(
        f"--{name}", type=boolean, nargs="?", const=True, default=False, metavar="BOOL", help=text
    )
    parser.add_argument(f"--no{name}", dest=name, action="store_false", help=argparse.SUPPRESS)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that all subcommands which run a model have."""
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_dir",
        metavar=FOLDER,
        help=f"folder of checkpoints, curves and log (default: {DEFAULT_MODEL_DIR}; for training, "
        "runs/ and the name of the last gin file or of the data)",
    )
    _add_configuration(parser)
    _add_tpu(parser.add_argument_group("TPU (TensorFlow 2.15 only)"))


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("configuration")
    _add_gin_files(group)
    _add_names(group)
    _add_task_folders(parser.add_argument_group("data of T5's tasks"))


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


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of commands that many processes can run together."""
    group = parser.add_argument_group(
        "many processes",
        "Each process runs this command with its own number; hmoe launch starts all of a machine.\n"
        "Without --workers, the environment's TF_CONFIG may name them.",
    )
    group.add_argument(
        "--workers",
        type=names,
        metavar="ADDRESSES",
        help="comma-separated host:port of each process, one for each slice of the mesh",
    )
    group.add_argument(
        "--worker_index",
        type=from_zero,
        metavar="N",
        help="the number of this process in --workers, from 0; the first prints",
    )
    add_waits(group)


def add_launch(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe launch`, and the command that it starts."""
    here = parser.add_argument_group("processes on this machine")
    here.add_argument(
        "-n",
        dest="number",
        type=count,
        metavar="N",
        help="how many, one for each slice of the mesh (default: one for each visible GPU)",
    )
    here.add_argument(
        "--restarts",
        type=from_zero,
        default=0,
        metavar="N",
        help="start all again after a failure, at most N times, from the last checkpoint",
    )
    hosts = parser.add_argument_group(
        "processes on several hosts", "Each host runs this command with its own --host_index."
    )
    hosts.add_argument(
        "--hosts",
        type=names,
        metavar="ADDRESSES",
        help="comma-separated host:port of the first process of each host; others of a host take "
        "the ports after it",
    )
    hosts.add_argument(
        "--host_index", type=from_zero, metavar="N", help="the number of this host, from 0"
    )
    hosts.add_argument(
        "--workers_per_host",
        type=count,
        metavar="N",
        help="processes on each host (default: one for each visible GPU)",
    )
    add_waits(parser.add_argument_group("what each process is given"))
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help=f"{', '.join(OF_MANY_PROCESSES)}, with its flags",
    )


def add_waits(group: Container) -> None:
    """Adds what processes also take from the command that starts them."""
    add_switch(
        group,
        "trust_network",
        "allow addresses that other machines reach, whose users could run code as you",
    )
    group.add_argument(
        "--lost_after",
        type=seconds,
        metavar="SECONDS",
        help="time without an answer after which a process is lost "
        f"(default: {workers.LOST_AFTER:g})",
    )
    group.add_argument(
        "--start_within",
        type=seconds,
        metavar="SECONDS",
        help=f"time for all processes to start (default: {workers.START_WITHIN:g})",
    )


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
    add_replay(training)
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


def add_eval(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe eval`."""
    add_replay(parser.add_argument_group("routing"))


def add_replay(group: Container) -> None:
    """Adds the flag of commands that can take the choices of a trace."""
    group.add_argument(
        "--replay",
        metavar=FILE,
        help="a trace of the same examples, whose choices take the place of the routers'",
    )


def _add_own_data(group: Container) -> None:
    add = group.add_argument
    add(
        "--data",
        metavar=FILE,
        help="pairs.tsv (input, tab, target) or text.txt (running text, for span corruption)",
    )
    add("--validation_data", metavar=FILE, help="data to evaluate on, in the same format")
    add("--vocabulary", metavar=FILE, help="a SentencePiece model (default: bytes)")
    _add_data_format(group)


def _add_data_format(group: Container) -> None:
    group.add_argument(
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


def add_trace(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe trace`."""
    traced = parser.add_argument_group("what is traced")
    traced.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help="a line to answer and trace, each its own; without it, the held-out examples",
    )
    traced.add_argument(
        "--examples", type=count, metavar="N", help="trace at most N examples of each task"
    )
    traced.add_argument(
        "--split",
        help="the split of the data, such as train (default: the one that hmoe eval evaluates)",
    )
    traced.add_argument(
        "--data",
        metavar=FILE,
        help="trace all of a file instead, of pairs (.tsv) or running text (.txt), as the model "
        "reads them",
    )
    _add_data_format(traced)
    traced.add_argument(
        "--output",
        metavar=FILE,
        help="file to write, for Parquet (default: trace-STEP.parquet in the model's folder, or "
        "trace-STEP-NAME.parquet with the name of --split or --data; of lines, none)",
    )
    compared = parser.add_argument_group("two traces")
    compared.add_argument(
        "--compare",
        nargs=2,
        metavar=FILE,
        help="print how many tokens two traces route to other experts, and nothing else",
    )
    add_switch(compared, "json", "print that as JSON")


def add_ablate(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe ablate`."""
    add = parser.add_argument_group("what is left out").add_argument
    add("--label", default="language", metavar="NAME", help="label of examples (default: language)")
    add(
        "--trace",
        metavar=FILE,
        help="trace that tells which experts each label uses (default: trace-STEP.parquet in the "
        "model's folder)",
    )
    add(
        "--examples",
        type=count,
        default=16,
        metavar="N",
        help="examples of each value of the label (default: 16)",
    )
    add(
        "--seeds",
        type=count,
        default=2,
        metavar="N",
        help="how many times experts are kept at random (default: 2)",
    )
    add(
        "--output",
        metavar=FILE,
        help="file to write, as JSON (default: retention-STEP-LABEL.json in the model's folder)",
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


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe plan`, which runs no model."""
    _add_shown(parser.add_argument_group("what is shown"))
    model = parser.add_argument_group("a trained model")
    model.add_argument(
        "--model_dir",
        metavar=FOLDER,
        help="folder of a run, whose measured demand is shown beside the plan; without gin files "
        "or data, its saved configuration is planned",
    )
    _add_own_data(parser.add_argument_group("your own data, without code"))
    _add_configuration(parser)


def _add_shown(group: Container) -> None:
    add = group.add_argument
    add(
        "--platform",
        choices=platforms.PLATFORMS,
        help="what the step is counted for (default: what the layout is for: tpu, unless "
        "utils.run.mesh_devices names devices)",
    )
    add(
        "--hardware",
        metavar=NAME_OR_FILE,
        help="model the time of a step on hardware of this name, or on your own, which a file "
        "describes",
    )
    add_switch(group, "json", "print the plan as JSON")
    add_switch(group, "explain", "show the formulas of the expert layers with their numbers")
    add_switch(group, "prove", "count the step in other ways too, and compare")
    add(
        "--search",
        type=count,
        metavar="N",
        help="search all meshes and layouts of N devices for the quickest step that fits",
    )
    add("--plot", metavar=FOLDER, help="write pictures to this folder, as SVG and PNG")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `hmoe report`, which reads files alone."""
    read = parser.add_argument_group("what is read")
    read.add_argument(
        "--model_dir",
        metavar=FOLDER,
        default=DEFAULT_MODEL_DIR,
        help=f"folder of a run (default: {DEFAULT_MODEL_DIR})",
    )
    read.add_argument(
        "--trace",
        action="append",
        default=[],
        metavar=FILE,
        help="a trace of the run; may be repeated (default: all trace-<step>.parquet in its "
        "folder)",
    )
    read.add_argument(
        "--against", metavar=FOLDER, help="folder of another run, to stand beside the first"
    )
    written = parser.add_argument_group("what is written")
    written.add_argument(
        "--output",
        metavar=FILE,
        help="the page; its pictures go to a folder beside it (default: report.html in the folder "
        "of the run)",
    )


def check(flags: argparse.Namespace, *, launched: bool = False) -> None:
    """Exits with a message if flags do not go together.

    Args:
      flags: the flags of a command.
      launched: whether `hmoe launch` is to add the flags that name the processes.
    """
    data_flags = ("validation_data", "vocabulary", "data_format", "skip_bad_lines")
    if flags.command in ("train", "plan", "trace") and flags.data is None:
        given = [name for name in data_flags if getattr(flags, name, None)]
        if given:
            flags.parser.error(f"--{given[0]} goes with --data")
    if hasattr(flags, "workers") and not launched:
        _check_workers(flags)
    if flags.command == "predict" and flags.text and flags.input_file is not None:
        flags.parser.error("give either a text or --input_file")
    if flags.command == "trace":
        _check_trace(flags)
    if flags.command == "predict" and flags.output_file and flags.input_file is None:
        flags.parser.error("--output_file goes with --input_file")
    if flags.command == "score" and flags.output_file and flags.target_file is None:
        flags.parser.error("--output_file goes with --target_file")


def _check_trace(flags: argparse.Namespace) -> None:
    if flags.json and not flags.compare:
        flags.parser.error("--json goes with --compare")
    for name in ("text", "examples", "split", "data", "output", "model_dir"):
        if flags.compare and getattr(flags, name):
            shown = "a text" if name == "text" else f"--{name}"
            flags.parser.error(f"{shown} does not go with --compare, which reads two traces alone")
    for name in ("examples", "split", "data"):
        if flags.text and getattr(flags, name) is not None:
            flags.parser.error(f"give either a text or --{name}")
    if flags.split is not None and flags.data is not None:
        flags.parser.error("give either --split or --data, of which all is traced")


def _check_workers(flags: argparse.Namespace) -> None:
    if flags.workers is None and flags.worker_index is not None:
        flags.parser.error("--worker_index goes with --workers")
    if flags.workers is not None and flags.worker_index is None:
        flags.parser.error("--workers goes with --worker_index")
    if flags.workers is None and not os.environ.get(tf_config.NAME):
        for name in ("trust_network", "lost_after", "start_within"):
            if getattr(flags, name):
                flags.parser.error(f"--{name} goes with --workers")
