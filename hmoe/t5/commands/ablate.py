"""`hmoe ablate`: what each label's examples lose when experts are left out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

from etils import epath

from hmoe.analysis import retention_report, retention_runs, retention_scores, traces
from hmoe.analysis.retention_runs import RetentionRun
from hmoe.analysis.retention_scores import RetentionStudy
from hmoe.startup.console import Console, duration
from hmoe.startup.request import AblateFlags, Request
from hmoe.storage import study_files
from hmoe.t5.commands import configure, trace
from hmoe.t5.commands.evaluate import make_repeatable
from hmoe.t5.evaluation import evaluate, retention
from hmoe.t5.evaluation.evaluate import EvalRequest
from hmoe.t5.sessions import checkpoints, processes
from hmoe.version import __version__

# Seconds between two lines about what is done.
_PATIENCE = 10


def ablate(request: Request, console: Console) -> None:
    """Scores held-out examples with experts left out, as a trace says that labels use them."""
    request = trace.configured(request, console)
    configure.mode_of("ablate")
    make_repeatable()
    function = _function(request, console)
    trace.run(request, console, "eval", {"evaluate": function}, configure.held_out_data())


def _function(request: Request, console: Console) -> Callable[..., None]:
    """Returns a function that ablates in place of upstream's `eval_model`."""
    flags = request.ablate
    assert flags is not None

    def eval_model(*arguments: Any, **named: Any) -> None:
        asked = EvalRequest(*arguments, **named)
        path = next(evaluate.checkpoint_paths(asked.eval_checkpoint_step, asked.model_dir))
        _ablate(request, flags, asked, path, console)

    return eval_model


def _ablate(
    request: Request, flags: AblateFlags, asked: EvalRequest, path: str, console: Console
) -> None:
    step = checkpoints.step_of(path)
    used_path = _trace_path(request.model_dir, flags, step)
    used = traces.read(used_path)
    runs = retention_runs.runs(used, flags.label, flags.seeds)
    prepared = evaluate.prepare(asked, console.say)
    input_fns = prepared.input_fns(asked.batch_size)
    examples = retention.examples_by_label(prepared.tasks, input_fns, flags.label, flags.examples)
    runs = _with_examples(runs, examples, flags.label)
    console.say(
        f"Scoring examples of {len({run.label for run in runs})} values of {flags.label!r} with"
        f" {path}, in {len(runs)} runs with experts left out ..."
    )
    scores = retention.score(
        prepared.estimator, path, used.manifest, runs, examples, _progress(len(runs), console)
    )
    name = study_files.retention_name(step, flags.label)
    target = flags.output or os.path.join(request.model_dir, name)
    if processes.is_first():
        epath.Path(target).parent.mkdir(parents=True, exist_ok=True)
        study = RetentionStudy(flags.label, step, used_path, __version__, tuple(scores))
        retention_scores.write(target, study)
    styled = console.answers_reach_a_terminal
    console.answer(retention_report.report(scores, styled=styled))
    console.say(f"Wrote the {len(scores)} losses to {target}")


def _with_examples(
    runs: Sequence[RetentionRun], examples: Container[str], label: str
) -> list[RetentionRun]:
    """Returns the runs of values of the label that the evaluation has examples of."""
    found = [run for run in runs if run.label in examples]
    if not found:
        values = ", ".join(repr(value) for value in sorted({run.label for run in runs}))
        raise ValueError(
            f"--label={label}: the evaluation has no example of {values}, the values in the trace;"
            " evaluate more examples, or name a trace of the same data with --trace"
        )
    return found


def _trace_path(model_dir: str, flags: AblateFlags, step: int) -> str:
    path = flags.trace or os.path.join(model_dir, study_files.trace_name(step))
    if not epath.Path(path).exists():
        raise ValueError(
            f"{path}: no such trace, from which the experts that each label uses are read; write it"
            f" with `hmoe trace --model_dir={model_dir}`, or name another with --trace"
        )
    return path


def _progress(total: int, console: Console) -> Callable[[int], None]:
    """Returns a function that prints how many runs are done, now and then."""
    began = said = time.monotonic()

    def done(number: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < _PATIENCE:
            return
        said = now
        left = duration((now - began) / number * (total - number))
        console.say(f"{number} of {total} runs are done, {left} left")

    return done
