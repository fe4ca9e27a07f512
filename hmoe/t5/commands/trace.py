"""`hmoe trace`: who went where, for held-out examples or for lines that a user types."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from t5.models import mesh_transformer

from hmoe.analysis import trace_table, traces
from hmoe.analysis.traces import Trace
from hmoe.startup.console import Console
from hmoe.startup.request import Request, TraceFlags
from hmoe.storage import study_files
from hmoe.t5.commands import configure
from hmoe.t5.commands.evaluate import make_repeatable
from hmoe.t5.commands.t5_run import T5Run
from hmoe.t5.data import files
from hmoe.t5.evaluation import decode_lines, evaluate, task_examples
from hmoe.t5.evaluation import trace as trace_lib
from hmoe.t5.evaluation.decode_lines import LineDecoder
from hmoe.t5.evaluation.evaluate import EvalRequest
from hmoe.t5.layers import layout_check
from hmoe.t5.sessions import checkpoints, processes
from hmoe.t5.sessions.estimator import SessionEstimator


def trace(request: Request, console: Console) -> None:
    """Traces the lines of a request, or else held-out examples."""
    request = configured(request, console)
    if request.text:
        run(request, console, "infer", {"infer": _lines_function(request, console)})
        return
    configure.mode_of("trace")
    assert request.trace is not None
    trace_held_out(request, console, request.trace)


def configured(request: Request, console: Console) -> Request:
    """Configures a command that looks into a trained model, and returns its completed request.

    Raises:
      ValueError: it is to run on a TPU, or there is no checkpoint.
    """
    if request.machine.tpu is not None:
        raise ValueError(
            f"hmoe {request.command} runs on CPUs and GPUs, from the checkpoints of a TPU too;"
            " leave --tpu out"
        )
    checkpoints.require_latest(request.model_dir, console.say)
    return configure.configure_trained(request, console)


def trace_held_out(
    request: Request, console: Console, flags: TraceFlags, *, or_nothing: bool = False
) -> None:
    """Traces held-out examples, once gin is configured.

    Args:
      request: the command.
      console: prints lines for the user.
      flags: what is traced, and where to.
      or_nothing: whether a model without expert layers is left alone, and no error.
    """
    make_repeatable()
    function = _data_function(request.model_dir, flags, console, or_nothing=or_nothing)
    data = configure.held_out_data() if flags.split is None else {"dataset_split": flags.split}
    run(request, console, "eval", {"evaluate": function}, data)


def run(
    request: Request,
    console: Console,
    mode: str,
    functions: dict[str, Callable[..., None]],
    more: Mapping[str, object] | None = None,
) -> None:
    """Runs functions of this package in place of those of a mode of T5.

    Args:
      request: the command.
      console: prints lines for the user.
      mode: mode of `utils.run`.
      functions: the fields of `T5Run` that take them.
      more: further arguments of `utils.run`.
    """
    started = T5Run(
        mode=mode,
        model_dir=request.model_dir,
        say=console.say,
        machine=request.machine,
        arguments={**configure.newest_checkpoint(), **(more or {})},
        **functions,  # type: ignore[arg-type]
    )
    checkpoints.again_if_removed(started.start, console.say)


def _data_function(
    model_dir: str, flags: TraceFlags, console: Console, *, or_nothing: bool
) -> Callable[..., None]:
    """Returns a function that traces held-out examples in place of upstream's `eval_model`."""

    def eval_model(*arguments: Any, **named: Any) -> None:
        asked = EvalRequest(*arguments, **named)
        if flags.data:
            asked = _with_data(asked, flags)
        prepared = evaluate.prepare(asked, console.say)
        model = prepared.estimator.settings.transformer_model
        if or_nothing and not layout_check.expert_layers(model):
            return
        data = [
            trace_lib.data_of_task(task, input_fn, flags.examples)
            for task, input_fn in zip(prepared.tasks, prepared.input_fns(asked.batch_size))
        ]
        names = flags.data or ", ".join(task.dataset.name for task in prepared.tasks)
        paths = list(evaluate.checkpoint_paths(asked.eval_checkpoint_step, asked.model_dir))
        if flags.output and len(paths) > 1:
            raise ValueError(
                f"--output {flags.output!r} is one file, but {len(paths)} checkpoints are asked for"
                " (utils.run.eval_checkpoint_step); leave it out, and each gets its own in the"
                " model's folder"
            )
        for path in paths:
            number = sum(len(each.examples) for each in data)
            console.say(f"Tracing {number} examples of {names} with {path} ...")
            settings = {"data": names, **({} if flags.data else {"split": asked.dataset_split})}
            found = trace_lib.trace(prepared.estimator, data, path, settings)
            _write(flags, model_dir, found, console)

    return eval_model


def _with_data(asked: EvalRequest, flags: TraceFlags) -> EvalRequest:
    """Returns an evaluation of the user's own file, with the model's vocabularies."""
    assert flags.data is not None
    if asked.sequence_length and "inputs" not in asked.sequence_length:
        raise ValueError(
            f"--data {flags.data!r} gives inputs and targets, but the model reads targets alone"
            ' (utils.run.sequence_length has no "inputs"); trace its own data with --split, or type'
            " a text"
        )
    vocabularies = task_examples.vocabularies(asked.vocabulary)
    task = files.register_examples(
        flags.data, vocabularies, flags.skip_bad_lines, flags.data_format
    )
    read = functools.partial(
        mesh_transformer.mesh_eval_dataset_fn,
        mixture_or_task_name=task,
        num_eval_examples=None,
        use_cached=False,
        pack=False,
        shuffle_eval_examples=False,
    )
    return dataclasses.replace(asked, eval_dataset_fn=read, dataset_split=files.EXAMPLES)


def _write(flags: TraceFlags, model_dir: str, found: Trace, console: Console) -> None:
    name = study_files.trace_name(found.manifest.step, flags.split, flags.data)
    path = flags.output or os.path.join(model_dir, name)
    if not processes.is_first():
        return
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    traces.write(path, found)
    console.say(f"Wrote {len(found):,} choices of {found.manifest.num_examples} examples to {path}")


def _lines_function(request: Request, console: Console) -> Callable[..., None]:
    """Returns a function that answers and traces lines in place of upstream's `infer_model`."""

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
        few = decode_lines.smallest_batch(estimator)
        size = -(-len(request.text) // few) * few
        estimator = estimator.with_batch_size(size)
        answers = _answers(estimator, path, request.text)
        data = trace_lib.data_of_lines(estimator.settings, request.text, answers)
        found = trace_lib.trace(estimator, [data], path, {"data": "lines that were typed"})
        for number, (line, answer) in enumerate(zip(request.text, answers)):
            console.answer(f"{line} -> {answer}")
            styled = console.answers_reach_a_terminal
            console.answer(trace_table.report(found, number, styled=styled))
        assert request.trace is not None
        if request.trace.output:
            _write(request.trace, request.model_dir, found, console)

    return infer_model


def _answers(estimator: SessionEstimator, path: str, lines: Sequence[str]) -> list[str]:
    decoder = LineDecoder(estimator, path)
    try:
        batches = decode_lines.full_batches(lines, decoder.batch_size)
        return list(decode_lines.decode_batches(decoder, batches))
    finally:
        decoder.close()
