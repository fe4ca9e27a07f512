"""`hmoe predict`: answers a text, the lines of a file or of standard input, or what users type."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.startup import path_checks, prompt
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.t5.commands import configure, gin_config
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.evaluation import decode_lines, evaluate
from hmoe.t5.sessions import checkpoints
from hmoe.t5.sessions.estimator import SessionEstimator


def predict(request: Request, console: Console) -> None:
    """Answers what the request gives, or else the file that gin names."""
    checkpoints.require_latest(request.model_dir)
    request = configure.configure_trained(request, console)
    is_given = bool(request.text or request.input_file)
    from_gin = not is_given and gin_config.bound("decode_from_file.input_filename") is not None
    T5Run(
        mode=configure.mode_of("predict"),
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        infer=None if from_gin else _infer_model_function(request, console),
        arguments=configure.newest_checkpoint(),
    ).start()


def _infer_model_function(request: Request, console: Console) -> Callable[..., None]:
    """Returns a function in place of upstream's `infer_model`, which reads its files from gin."""

    def infer_model(
        estimator: SessionEstimator,
        vocabulary: object,
        sequence_length: dict[str, int],
        batch_size: int,
        model_type: str,
        model_dir: str,
        eval_checkpoint_step: Any,
    ) -> None:
        path = next(evaluate.checkpoint_paths(eval_checkpoint_step, model_dir))
        if request.input_file:
            _answer_file(estimator, path, request.input_file, request.output_file, console)
            return
        few = estimator.with_batch_size(decode_lines.smallest_batch(estimator))
        if request.text:
            console.answer(decode_lines.LineDecoder(few, path).decode([" ".join(request.text)])[0])
        elif sys.stdin.isatty():
            decoder = decode_lines.LineDecoder(few, path)
            decode_lines.decode_interactively(decoder, lambda: prompt.ask(console), console.answer)
        else:
            decoder = decode_lines.LineDecoder(estimator, path)
            for answer in decode_lines.decode_lines(decoder, sys.stdin, batch_size):
                console.answer(answer)

    return infer_model


def _answer_file(
    estimator: SessionEstimator, path: str, source: str, target: str | None, console: Console
) -> None:
    """Answers the lines of a file, to another file or to the user."""
    path_checks.check_exists("input_file", source, tf.io.gfile.exists)
    lines = utils.get_inputs_from_file(source)
    if not lines:
        raise ValueError(f"--input_file {source!r} is empty")
    decoder = decode_lines.LineDecoder(estimator, path)
    replies = decode_lines.decode_lines(decoder, lines, estimator.settings.batch_size)
    if target is None:
        for reply in replies:
            console.answer(reply)
        return
    folder = os.path.dirname(target)
    if folder:
        tf.io.gfile.makedirs(folder)
    with tf.io.gfile.GFile(target, "w") as file:
        for reply in replies:
            file.write(reply.replace("\n", " ") + "\n")
    console.say(f"Wrote {len(lines)} answers to {target}")
