"""Evaluates checkpoints with the choices of a trace in place of the routers' own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from hmoe.t5.evaluation import evaluate, report, result_files
from hmoe.t5.evaluation.evaluate import EvalRequest
from hmoe.t5.evaluation.results import Evaluation, TaskExamples
from hmoe.t5.sessions import checkpoints, processes

# Ends the name of the folder of results, which are not those of the model by itself.
SUFFIX = "_replay"


def eval_model_function(say: Callable[[str], None], path: str) -> Callable[..., None]:
    """Returns a function to replace upstream's `eval_model`, for an estimator that replays.

    It evaluates by teacher forcing, since a trace has no choices for tokens that are decoded, and
    writes to a folder beside that of an evaluation.

    Args:
      say: prints a line for the user.
      path: the trace.
    """

    def eval_model(*arguments: Any, **named: Any) -> None:
        request = EvalRequest(*arguments, **named)
        if request.eval_with_score:
            raise ValueError(
                "--replay evaluates by teacher forcing; set utils.run.eval_with_score to False"
            )
        say(
            f"Replaying the choices of {path}, by teacher forcing alone: a trace has none for"
            " decoding"
        )
        _evaluate(request, say)

    return eval_model


def _evaluate(request: EvalRequest, say: Callable[[str], None]) -> None:
    """Evaluates, writes and reports each of the checkpoints that are asked for."""
    prepared = evaluate.prepare(request, say)
    folder = request.folder + SUFFIX
    for path in evaluate.checkpoint_paths(request.eval_checkpoint_step, request.model_dir):
        input_fns = prepared.input_fns(request.batch_size)
        together, apart = prepared.estimator.evaluate_each(input_fns, path)
        step = checkpoints.step_of(path)
        evaluations = [
            Evaluation(_not_decoded(task), step, numbers)
            for task, numbers in zip(prepared.tasks, apart)
        ]
        if processes.is_first():
            result_files.write(folder, evaluations, together, with_examples=False)
        for each in evaluations:
            name = f"{each.task.dataset.name} ({each.task.num_examples} examples, step {step})"
            say(report.teacher_forcing(name, each.numbers))
        report.print_expert_load(say, together)


def _not_decoded(task: TaskExamples) -> TaskExamples:
    dataset = task.dataset._replace(metric_fns=[])
    return dataclasses.replace(task, dataset=dataset, examples=[], targets=[])
