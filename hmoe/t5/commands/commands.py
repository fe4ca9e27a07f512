"""The subcommands of `hmoe`, once TensorFlow is there."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import gin
import t5
from mesh_tensorflow.transformer import utils

from hmoe import compat
from hmoe.compat import stand_ins
from hmoe.compat.stack import tf
from hmoe.experts import split_merge
from hmoe.startup import path_checks
from hmoe.startup.console import Console
from hmoe.t5.commands import gin_config, run_files
from hmoe.t5.commands import t5_run as run_lib
from hmoe.t5.data import files as data_files
from hmoe.t5.evaluation import decode_lines, evaluate, report
from hmoe.t5.sessions import checkpoints
from hmoe.t5.sessions.estimator import SessionEstimator

# The job of ``hmoe train`` without flags.
DEFAULT_RUN = "runs/default.gin"

# Modes of ``utils.run`` that gin may ask a command for; the first is its own.
MODES = {
    "train": ("train",),
    "eval": ("eval", "score_eval", "perplexity_eval"),
    "predict": ("infer",),
    "score": ("score_from_strings", "score_from_dataset"),
    "export": ("export_infer", "export_score", "export"),
}


def run(flags: argparse.Namespace, console: Console) -> None:
    """Runs the command that the flags name.

    Args:
      flags: of the command line.
      console: where the user sees lines.

    Raises:
      ValueError: something that the user can mend.
      KeyboardInterrupt: the user stopped it.
    """
    if flags.tpu and not compat.tpu_estimator_is_real():
        stand_ins.raise_no_tpu_estimator()
    compat.behave_like_v1()
    tf.logging.set_verbosity(tf.logging.INFO)
    commands: dict[str, Callable[[argparse.Namespace, Console], None]] = {
        "train": train,
        "eval": evaluate_model,
        "predict": predict,
        "score": score,
        "export": export,
        "split": split,
        "merge": merge,
    }
    commands[flags.command](flags, console)


def train(flags: argparse.Namespace, console: Console) -> None:
    """Trains; after the default job or on a user's own data, also evaluates."""
    saved = run_files.read(flags.model_dir)
    resumes = saved is not None and not (flags.gin_file or flags.data)
    if resumes:
        console.say(f"Taking up the run in {flags.model_dir} with its own configuration")
        _use_saved(flags, console)
    else:
        _configure(flags, *_new_configuration(flags, console))
        run_files.write(flags.model_dir, flags)
    overrides: dict[str, Any] = {"dataset_split": "train"}
    if flags.train_steps is not None:
        overrides["train_steps"] = flags.train_steps
    _run(flags, console, "train", **overrides)
    evaluates = flags.evaluate
    if evaluates is None:
        evaluates = not flags.gin_file and run_lib.bound("run.eval_dataset_fn") is not None
    if evaluates:
        _run_evaluation(flags, console)
    latest = checkpoints.require_latest(flags.model_dir)
    report.print_run_files(console.say, flags.model_dir, latest, console.log_path or "")


def _new_configuration(flags: argparse.Namespace, console: Console) -> tuple[list[str], list[str]]:
    """Gin files and bindings of a run that begins."""
    gin_files = flags.gin_file or [DEFAULT_RUN]
    bindings = _data_bindings(flags, console)
    return gin_files, [*bindings, *flags.gin_param]


def _data_bindings(flags: argparse.Namespace, console: Console) -> list[str]:
    """Registers the user's own data, and returns what binds it."""
    if not getattr(flags, "data", None):
        return []
    name = data_files.register(
        flags.data, flags.validation_data, flags.vocabulary, bool(flags.skip_bad_lines)
    )
    console.say(data_files.report(name).summary())
    return [f"MIXTURE_NAME = {name!r}"]


def _configure(flags: argparse.Namespace, gin_files: list[str], bindings: list[str]) -> None:
    """Imports the user's modules and reads gin, as T5's command does."""
    modules = flags.module_import
    if modules is None:
        modules = ["t5.data.mixtures"] if flags.gin_file else []
    for module in modules:
        importlib.import_module(module)
    if flags.t5_tfds_data_dir:
        t5.data.set_tfds_data_dir_override(flags.t5_tfds_data_dir)
    skip: Any = flags.skip_all_gin_unknowns or flags.additional_deprecated_gin_references
    gin_config.read(gin_files, bindings, flags.gin_location_prefix or (), skip)
    run_lib.finish_configuration()
    t5.data.add_global_cache_dirs(flags.additional_task_cache_dirs or [])


def _use_saved(flags: argparse.Namespace, console: Console) -> None:
    """Configures from the user's gin files, or else from what training left in `model_dir`.

    Raises:
      ValueError: there are no gin files, and `model_dir` has none either.
    """
    if flags.gin_file:
        _configure(flags, flags.gin_file, flags.gin_param)
        return
    saved = run_files.read(flags.model_dir)
    if saved is None:
        checkpoints.require_latest(flags.model_dir)
        raise ValueError(
            f"model_dir {flags.model_dir!r} has no {' or '.join(run_files.CONFIGURATIONS)} that "
            "says what the model is; name its gin files with --gin_file"
        )
    for name in run_files.KEPT_FLAGS:
        setattr(flags, name, getattr(flags, name, None) or saved.flags.get(name))
    bindings = _data_bindings(flags, console)
    _configure(flags, [saved.configuration], [*bindings, *flags.gin_param])


def _mode(command: str) -> str:
    """The mode of `utils.run` for a command, which gin may choose among its own.

    Raises:
      ValueError: gin asks for the mode of another command.
    """
    asked = run_lib.bound("run.mode")
    if asked in MODES[command]:
        return asked
    for other, modes in MODES.items():
        if asked in modes and other != "train":
            raise ValueError(
                f"gin binds utils.run.mode = {asked!r}, which is for: hmoe {other} "
                f"(this is: hmoe {command})"
            )
    return MODES[command][0]


def _run(
    flags: argparse.Namespace,
    console: Console,
    mode: str,
    seams: dict[str, Callable] | None = None,
    **overrides: Any,
) -> None:
    machine = run_lib.Machine(flags.tpu, flags.tpu_job_name, flags.tpu_zone, flags.gcp_project)
    run_lib.run(mode, flags.model_dir, console.say, machine, seams, **overrides)


def _newest_unless_bound(split: bool = False) -> dict[str, Any]:
    """Arguments of `utils.run` where gin says nothing: the newest checkpoint, held-out data."""
    overrides: dict[str, Any] = {}
    if run_lib.bound("run.eval_checkpoint_step") is None:
        overrides["eval_checkpoint_step"] = -1
    if split and run_lib.bound("run.dataset_split", "train") == "train":
        overrides["dataset_split"] = "validation"
    return overrides


def _run_evaluation(flags: argparse.Namespace, console: Console) -> None:
    # TPUEstimator has methods of its own for this, which upstream's function knows.
    seams = {} if flags.tpu else {"eval_model": evaluate.eval_model_function(console.say)}
    _run(flags, console, "eval", seams, **_newest_unless_bound(split=True))


def evaluate_model(flags: argparse.Namespace, console: Console) -> None:
    """Scores checkpoints on held-out examples."""
    _use_saved(flags, console)
    mode = _mode("eval")
    if mode == "eval":
        _run_evaluation(flags, console)
    else:
        _run(flags, console, mode, **_newest_unless_bound(split=True))
        console.say(f"Scores are in TensorBoard files and text files in {flags.model_dir}")


def predict(flags: argparse.Namespace, console: Console) -> None:
    """Answers a text, the lines of a file, of standard input, or what the user types."""
    checkpoints.require_latest(flags.model_dir)
    _use_saved(flags, console)
    mode = _mode("predict")
    own = flags.text or flags.input_file or run_lib.bound("decode_from_file.input_filename") is None
    seams = {"infer_model": _infer_model_function(flags, console)} if own else {}
    _run(flags, console, mode, seams, **_newest_unless_bound())


def _infer_model_function(flags: argparse.Namespace, console: Console) -> Callable[..., None]:
    """A function in place of upstream's `infer_model`, which reads gin for its files."""

    def infer_model(
        estimator: SessionEstimator,
        vocabulary: Any,
        sequence_length: dict[str, int],
        batch_size: int,
        model_type: str,
        model_dir: str,
        eval_checkpoint_step: Any,
    ) -> None:
        path = next(evaluate.checkpoint_paths(eval_checkpoint_step, model_dir))
        if flags.input_file:
            _answer_file(estimator, path, flags.input_file, flags.output_file, console)
            return
        few = estimator.with_batch_size(decode_lines.smallest_batch(estimator))
        if flags.text:
            console.say(decode_lines.LineDecoder(few, path).decode([" ".join(flags.text)])[0])
        elif sys.stdin.isatty():
            decoder = decode_lines.LineDecoder(few, path)
            decode_lines.decode_interactively(decoder, lambda: _ask(console), console.say)
        else:
            decoder = decode_lines.LineDecoder(estimator, path)
            for answer in decode_lines.decode_lines(decoder, sys.stdin, batch_size):
                console.say(answer)

    return infer_model


def _ask(console: Console) -> str | None:
    try:
        return input("> ")
    except EOFError:
        console.say("")
        return None


def _answer_file(
    estimator: SessionEstimator, path: str, source: str, target: str | None, console: Console
) -> None:
    path_checks.check_exists("input_file", source, tf.io.gfile.exists)
    lines = utils.get_inputs_from_file(source)
    if not lines:
        raise ValueError(f"--input_file {source!r} holds no line")
    decoder = decode_lines.LineDecoder(estimator, path)
    replies = decode_lines.decode_lines(decoder, lines, estimator.settings.batch_size)
    if target is None:
        for reply in replies:
            console.say(reply)
        return
    folder = os.path.dirname(target)
    if folder:
        tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(target, "w") as file:
        for reply in replies:
            file.write(reply.replace("\n", " ") + "\n")
    console.say(f"{len(lines)} answers are in {target}")


def score(flags: argparse.Namespace, console: Console) -> None:
    """Log likelihoods of targets given inputs."""
    checkpoints.require_latest(flags.model_dir)
    _use_saved(flags, console)
    seams = {"score_from_strings": _score_function(flags, console)} if flags.target_file else {}
    _run(flags, console, _mode("score"), seams, **_newest_unless_bound(split=True))


def _score_function(flags: argparse.Namespace, console: Console) -> Callable[..., None]:
    """Upstream's `score_from_strings` with the files of the command line."""
    upstream = utils.score_from_strings

    def finish(results: list[dict[str, Any]], vocabulary: Any) -> list[float]:
        if flags.output_file:
            path = os.path.abspath(flags.output_file)
            utils.save_scores(results, vocabulary, scores_filename=path)
            console.say(f"{len(results)} scores are in {flags.output_file}.scores")
        else:
            for result in results:
                console.say(f"{result['scores']:.4f}")
        return [float(result["scores"]) for result in results]

    def score_from_strings(**arguments: Any) -> None:
        for flag in ("input_file", "target_file"):
            path_checks.check_exists(flag, getattr(flags, flag), tf.io.gfile.exists)
        upstream(
            inputs=flags.input_file,
            targets=flags.target_file,
            score_postprocess_fn=finish,
            **arguments,
        )

    return score_from_strings


def export(flags: argparse.Namespace, console: Console) -> None:
    """Writes a SavedModel of the newest checkpoint."""
    checkpoints.require_latest(flags.model_dir)
    _use_saved(flags, console)
    folder = flags.export_dir or run_lib.bound("run.export_path")
    folder = folder or os.path.join(flags.model_dir, "export")
    _run(flags, console, _mode("export"), export_path=folder)
    console.say(f"The model is in {folder}/<time>")


def split(flags: argparse.Namespace, console: Console) -> None:
    """Writes the newest checkpoint with one set of variables per expert."""
    _rewrite(flags, console, split_merge.split_experts, separate=True)


def merge(flags: argparse.Namespace, console: Console) -> None:
    """Writes the newest checkpoint with all experts of a layer in one variable each."""
    _rewrite(flags, console, split_merge.merge_experts, separate=False)


def _rewrite(
    flags: argparse.Namespace,
    console: Console,
    function: Callable[[dict[str, Any]], dict[str, Any]],
    separate: bool,
) -> None:
    """Writes a model with its variables in another form, and the configuration for it.

    Raises:
      ValueError: the target has files already, or the variables are not in the other form.
    """
    path = checkpoints.require_latest(flags.model_dir)
    if tf.io.gfile.exists(flags.output_dir) and (
        not tf.io.gfile.isdir(flags.output_dir) or tf.io.gfile.listdir(flags.output_dir)
    ):
        path_checks.raise_not_empty(flags.output_dir)
    _use_saved(flags, console)
    before = checkpoints.read(path)
    after = function(before)
    with gin.unlock_config():
        gin.bind_parameter("hmoe.FeedForwardExperts.separate", separate)
    written = checkpoints.write(flags.output_dir, checkpoints.step_of(path), after)
    run_files.write(flags.output_dir, flags)
    console.say(
        f"{len(before)} variables of {path}, the optimizer's among them, became {len(after)} of "
        f"{written}, without the optimizer's. To answer: hmoe predict --model_dir="
        f"{flags.output_dir}"
    )
