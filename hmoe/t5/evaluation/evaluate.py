"""Evaluates checkpoints: scores of decoded outputs, and metrics by teacher forcing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gin
from mesh_tensorflow.transformer import utils

from hmoe.t5.evaluation import report, result_files, task_examples
from hmoe.t5.evaluation.results import Evaluation, TaskExamples
from hmoe.t5.evaluation.task_examples import EvalDatasetFn, as_text
from hmoe.t5.graphs.model_settings import Vocabulary
from hmoe.t5.sessions import checkpoints, processes
from hmoe.t5.sessions.checkpoints import CheckpointStep
from hmoe.t5.sessions.estimator import SessionEstimator
from hmoe.t5.sessions.estimator_protocol import Estimator, InputFn


@dataclasses.dataclass(frozen=True)
class EvalRequest:
    """The arguments of Mesh TensorFlow's `eval_model`, whose docstring explains each of them."""

    estimator: Callable[..., SessionEstimator]
    vocabulary: Vocabulary
    sequence_length: dict[str, int] | None
    batch_size: int
    dataset_split: str
    model_dir: str
    eval_dataset_fn: EvalDatasetFn | None
    eval_summary_dir: str | None
    eval_checkpoint_step: CheckpointStep
    eval_with_score: bool = False
    output_eval_examples: bool = True
    eval_dir_suffix: str | None = None

    @property
    def folder(self) -> str:
        """The folder that results are written to."""
        folder = self.eval_summary_dir or os.path.join(self.model_dir, f"{self.dataset_split}_eval")
        return folder + (f"_{self.eval_dir_suffix}" if self.eval_dir_suffix is not None else "")


def eval_model_function(say: Callable[[str], None]) -> Callable[..., None]:
    """Returns a function to replace upstream's `eval_model` in `utils.run` with mode "eval".

    It writes what upstream's writes (outputs, targets and TensorBoard scalars in
    `model_dir/<split>_eval`) and `metrics.jsonl` beside them. It also evaluates by teacher forcing
    and prints a report. With `eval_with_score` it calls upstream's.

    Args:
      say: prints a line for the user.
    """
    upstream = utils.eval_model

    def eval_model(*arguments: Any, **named: Any) -> None:
        request = EvalRequest(*arguments, **named)
        if request.eval_with_score:
            upstream(*arguments, **named)
        else:
            _evaluate(request, say)

    return eval_model


class Prepared(NamedTuple):
    """What an evaluation needs.

    Attributes:
      tasks: the tasks that have examples.
      estimator: the model.
      lengths: length of inputs and targets, in tokens.
    """

    tasks: list[TaskExamples]
    estimator: SessionEstimator
    lengths: dict[str, int]

    def input_fns(self, batch_size: int) -> list[InputFn]:
        """Returns what reads each task, in batches of its own, so that sums are the task's."""
        return [input_fn([task], batch_size, self.lengths) for task in self.tasks]


def prepare(request: EvalRequest, say: Callable[[str], None]) -> Prepared:
    """Loads the examples and builds the estimator of an evaluation."""
    tasks = task_examples.load_tasks(
        request.eval_dataset_fn, request.sequence_length, request.vocabulary, request.dataset_split
    )
    if request.sequence_length:
        for warning in task_examples.cut_warnings(tasks, request.sequence_length):
            say(warning)
    lengths = request.sequence_length or task_examples.longest(tasks)
    return Prepared(tasks, request.estimator(sequence_length=lengths), lengths)


def _evaluate(request: EvalRequest, say: Callable[[str], None]) -> None:
    """Evaluates, writes and reports each of the checkpoints that are asked for."""
    prepared = prepare(request, say)
    for path in checkpoint_paths(request.eval_checkpoint_step, request.model_dir):
        try:
            evaluations, numbers = _evaluate_checkpoint(request, prepared, path)
        except checkpoints.RemovedError:
            if request.eval_checkpoint_step not in (None, "all"):
                raise
            say(f"{path} was removed before it was evaluated, and is left out")
            continue
        if processes.is_first():
            result_files.write(request.folder, evaluations, numbers, request.output_eval_examples)
        report.print_evaluation(say, evaluations, numbers)


def _evaluate_checkpoint(
    request: EvalRequest, prepared: Prepared, path: str
) -> tuple[list[Evaluation], dict[str, float]]:
    """Returns the evaluation of each task, and the metrics of all by teacher forcing."""
    tasks, estimator, lengths = prepared
    by_name = {}
    decoded = [task for task in tasks if task.is_decoded]
    if decoded:
        read = input_fn(decoded, request.batch_size, lengths)
        found = evaluate_by_decoding(estimator, read, request.vocabulary, decoded, path)
        by_name = {evaluation.task.dataset.name: evaluation for evaluation in found}
    together, apart = estimator.evaluate_each(prepared.input_fns(request.batch_size), path)
    evaluations = [
        dataclasses.replace(
            by_name.get(task.dataset.name, Evaluation(task, checkpoints.step_of(path))),
            numbers=numbers,
        )
        for task, numbers in zip(tasks, apart)
    ]
    return evaluations, together


def input_fn(tasks: Sequence[TaskExamples], batch_size: int, lengths: dict[str, int]) -> InputFn:
    """Returns a function that reads the examples of the tasks, in whole batches."""
    datasets = [task.dataset for task in tasks]
    return utils._get_combined_dataset_input_fn(datasets, batch_size, lengths)


def checkpoint_paths(
    checkpoint_step: CheckpointStep,
    model_dir: str,
    skip_until: int | None = None,
    stop_after: int | None = None,
    find_closest: bool = False,
) -> Iterator[str]:
    """Yields the paths of the checkpoints that `eval_checkpoint_step` asks for.

    It takes the place of upstream's `get_checkpoint_iterator`, and what gin binds to that is used,
    but for `find_closest`: a step that is not there is an error, and never another step.

    Args:
      checkpoint_step: see `checkpoints.paths`.
      model_dir: the folder.
      skip_until: the last step to leave out, for "all" and None; by default gin's.
      stop_after: the step to end at, for "all" and None; by default gin's.
      find_closest: not used.

    Raises:
      ValueError: the folder has no such checkpoint.
    """
    del find_closest
    every = checkpoints.paths(checkpoint_step, model_dir)
    if checkpoint_step not in (None, "all"):
        return every
    skip = skip_until if skip_until is not None else _of_upstream("skip_until") or 0
    stop = stop_after if stop_after is not None else _of_upstream("stop_after")
    return _between(every, skip, stop)


def _of_upstream(argument: str) -> int | None:
    return gin.get_bindings("get_checkpoint_iterator").get(argument)


def _between(paths: Iterator[str], skip_until: int, stop_after: int | None) -> Iterator[str]:
    for path in paths:
        step = checkpoints.step_of(path)
        if step > skip_until and (stop_after is None or step <= stop_after):
            yield path
        if stop_after is not None and step >= stop_after:
            return


def evaluate_by_decoding(
    estimator: Estimator,
    input_fn: InputFn,
    vocabulary: Vocabulary,
    tasks: Sequence[TaskExamples],
    path: str,
) -> Iterator[Evaluation]:
    """Decodes all examples with a checkpoint, and scores the outputs task by task."""
    outputs = [as_text(output) for output in utils.decode(estimator, input_fn, vocabulary, path)]
    for task in tasks:
        own, outputs = outputs[: len(task.examples)], outputs[len(task.examples) :]
        postprocess = task.dataset.postprocess_fn
        predictions = [postprocess(o, example=e) for o, e in zip(own, task.examples)]
        scores: dict[str, float] = {}
        for metric in task.dataset.metric_fns:
            scores.update(metric(task.targets, predictions))
        yield Evaluation(
            task,
            checkpoints.step_of(path),
            outputs=own,
            predictions=predictions,
            scores=scores,
        )
