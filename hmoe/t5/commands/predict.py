"""`hmoe predict`: answers a text, the lines of a file or of standard input, or what users type."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hmoe.startup import answer_files, prompt, text_lines
from hmoe.startup.console import Console
from hmoe.startup.request import Request
from hmoe.startup.text_lines import one_line
from hmoe.t5.commands import configure, gin_config
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.evaluation import decode_lines, evaluate
from hmoe.t5.evaluation.decode_lines import LineDecoder
from hmoe.t5.sessions import checkpoints, processes
from hmoe.t5.sessions.estimator import SessionEstimator


def predict(request: Request, console: Console) -> None:
    """Answers what the request gives, or else the file that gin names."""
    checkpoints.require_latest(request.model_dir, console.say)
    request = configure.configure_trained(request, console)
    T5Run(
        mode=configure.mode_of("predict"),
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        infer=_infer_function(request, console),
        arguments=configure.newest_checkpoint(),
    ).start()


def _infer_function(request: Request, console: Console) -> Callable[..., None] | None:
    """Returns a function in place of upstream's `infer_model`; None for a decoder of gin's own."""
    if request.text or request.input_file:
        return _infer_model_function(request, console)
    decode_fn = gin_config.value("infer_model.decode_fn")
    if decode_fn is not None and "decode_from_file" not in str(decode_fn):
        return None
    if _gin_file("input_filename") or _gin_file("output_filename"):
        return _decode_from_file_function(console)
    return _infer_model_function(request, console)


def _infer_model_function(request: Request, console: Console) -> Callable[..., None]:
    """Returns a function that answers the texts, the file or the standard input of a request."""

    def infer_model(
        estimator: SessionEstimator,
        vocabulary: object,
        sequence_length: dict[str, int],
        batch_size: int,
        model_type: str,
        model_dir: str,
        eval_checkpoint_step: Any,
    ) -> None:
        # The newest is chosen when the model is built: a training that goes on may save meanwhile.
        path = None
        if eval_checkpoint_step != -1:
            path = next(evaluate.checkpoint_paths(eval_checkpoint_step, model_dir))
        _answer(request, console, estimator, path, batch_size)

    return infer_model


def _answer(
    request: Request,
    console: Console,
    estimator: SessionEstimator,
    path: str | None,
    batch_size: int,
) -> None:
    """Answers with a checkpoint, or the newest for None."""
    few = decode_lines.smallest_batch(estimator)
    if request.input_file:
        lines = text_lines.read("--input_file", request.input_file)
        _answer_lines(LineDecoder(estimator, path), lines, request.output_file, console)
    elif request.text:
        size = few if len(request.text) <= few else batch_size
        decoder = LineDecoder(estimator.with_batch_size(size), path)
        _answer_lines(decoder, request.text, None, console)
    elif sys.stdin and sys.stdin.isatty():
        with _closing(LineDecoder(estimator.with_batch_size(few), path), console) as decoder:
            decode_lines.decode_interactively(
                decoder,
                lambda: prompt.ask(console),
                lambda text: console.answer(one_line(text)),
            )
    else:
        _answer_standard_input(LineDecoder(estimator, path), console)


def _decode_from_file_function(console: Console) -> Callable[..., None]:
    """Returns a function that answers the file which gin names, as T5's `decode_from_file` does."""
    source, target = _gin_file("input_filename"), _gin_file("output_filename")
    repeats = gin_config.value("decode_from_file.repeats", 1)
    if not source:
        raise ValueError(
            "gin binds decode_from_file.output_filename and no decode_from_file.input_filename; "
            "name the file to answer"
        )
    lines = text_lines.read("decode_from_file.input_filename", source)
    lines = [line for line in lines for _ in range(repeats)]

    def infer_model(
        estimator: SessionEstimator,
        vocabulary: object,
        sequence_length: dict[str, int],
        batch_size: int,
        model_type: str,
        model_dir: str,
        eval_checkpoint_step: Any,
    ) -> None:
        for path in evaluate.checkpoint_paths(eval_checkpoint_step, model_dir):
            # T5 adds the step to the name.
            named = f"{target}-{checkpoints.step_of(path)}" if target else None
            _answer_lines(LineDecoder(estimator, path), lines, named, console)

    return infer_model


def _gin_file(name: str) -> str | None:
    """Returns the path that gin binds to an argument of `decode_from_file`."""
    return gin_config.value(f"decode_from_file.{name}")


def _answer_lines(
    decoder: LineDecoder, lines: Sequence[str], target: str | None, console: Console
) -> None:
    """Answers lines that are all there, to a file or to the user."""
    batches = decode_lines.full_batches(lines, decoder.batch_size)
    with _closing(decoder, console):
        outputs = decode_lines.decode_batches(decoder, batches)
        if target is None:
            for output in outputs:
                console.answer(one_line(output))
        else:
            _write_answers(outputs, target, console)


def _write_answers(outputs: Iterable[str], target: str, console: Console) -> None:
    """Writes answers to a file, and prints where they are, or those that are done so far."""
    count = 0
    try:
        with processes.writing_once(target) as write:
            for output in outputs:
                write(output)
                count += 1
    except BaseException:
        if count:
            console.say(f"The {count} answers so far are in {target}{answer_files.UNFINISHED}")
        raise
    console.say(f"Wrote {count} answers to {target}")


def _answer_standard_input(decoder: LineDecoder, console: Console) -> None:
    """Answers the lines of standard input as they arrive."""
    if sys.stdin is None:
        raise ValueError("standard input is closed; give a text, or --input_file")
    # A thread reads, and may still wait for a line when Python ends: then it must not hold
    # `sys.stdin`, which Python closes.
    source = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    lines = text_lines.decoded(source, "standard input")
    batches = decode_lines.arriving_batches(lines, decoder.batch_size)
    count = 0
    with _closing(decoder, console):
        for output in decode_lines.decode_batches(decoder, batches):
            console.answer(one_line(output))
            count += 1
    if not count:
        console.say("Standard input holds no line, so there is nothing to answer")


@contextlib.contextmanager
def _closing(decoder: LineDecoder, console: Console) -> Iterator[LineDecoder]:
    """Ends a decoder's session, also after an error; else TensorFlow would wait for a next line.

    Then prints how many lines were longer than the model reads, if any were.
    """
    try:
        yield decoder
    finally:
        decoder.close()
    warning = decoder.cut.warning()
    if warning:
        console.say(warning)
