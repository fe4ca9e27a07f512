"""Evaluation of checkpoints: answers to held-out examples scored, and teacher-forced numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from mesh_tensorflow.transformer import dataset as mtf_dataset
from mesh_tensorflow.transformer import utils

from hmoe.compat.stack import tf
from hmoe.t5.evaluation import report
from hmoe.t5.evaluation.results import Evaluation, TaskExamples
from hmoe.t5.sessions import checkpoints, hooks

InputFn = Callable[[dict[str, Any]], "tf.data.Dataset"]


def eval_model_function(say: Callable[[str], None]) -> Callable[..., None]:
    """A function in place of upstream's `eval_model`, for `utils.run` in mode "eval".

    Beside what upstream's writes (answers, targets and TensorBoard scalars in
    `model_dir/<split>_eval`), it writes `metrics.jsonl` there, evaluates by teacher forcing and
    prints what it finds. With `eval_with_score` it is upstream's own.

    Args:
      say: takes lines for the user.

    Returns:
      The function, of the arguments of upstream's.
    """
    upstream = utils.eval_model

    def eval_model(
        estimator: Callable,
        vocabulary: Any,
        sequence_length: dict[str, int] | None,
        batch_size: int,
        dataset_split: str,
        model_dir: str,
        eval_dataset_fn: Callable | None,
        eval_summary_dir: str | None,
        eval_checkpoint_step: Any,
        eval_with_score: bool = False,
        output_eval_examples: bool = True,
        eval_dir_suffix: str | None = None,
    ) -> None:
        if eval_with_score:
            upstream(
                estimator,
                vocabulary,
                sequence_length,
                batch_size,
                dataset_split,
                model_dir,
                eval_dataset_fn,
                eval_summary_dir,
                eval_checkpoint_step,
                True,
                output_eval_examples,
                eval_dir_suffix,
            )
            return
        folder = eval_summary_dir or os.path.join(model_dir, f"{dataset_split}_eval")
        folder += f"_{eval_dir_suffix}" if eval_dir_suffix is not None else ""
        tasks = load_tasks(eval_dataset_fn, sequence_length, vocabulary, dataset_split)
        lengths = sequence_length or longest(tasks)
        built = estimator(sequence_length=lengths)
        input_fn = utils._get_combined_dataset_input_fn(
            [task.dataset for task in tasks], batch_size, lengths, check_for_metrics=True
        )
        for path in checkpoint_paths(eval_checkpoint_step, model_dir):
            evaluations = list(evaluate_by_answers(built, input_fn, vocabulary, tasks, path))
            numbers = built.evaluate(input_fn, checkpoint_path=path)
            write(folder, evaluations, numbers, output_eval_examples)
            report.say_evaluation(say, evaluations, numbers)

    return eval_model


def checkpoint_paths(step: Any, model_dir: str) -> Iterator[str]:
    """Paths of the checkpoints that `eval_checkpoint_step` asks for, -1 being the newest.

    Raises:
      ValueError: the folder holds none.
    """
    if step is not None:
        checkpoints.require_latest(model_dir)
    return iter(utils.get_checkpoint_iterator(step, model_dir))


def load_tasks(
    eval_dataset_fn: Callable | None,
    sequence_length: dict[str, int] | None,
    vocabulary: Any,
    split: str,
) -> list[TaskExamples]:
    """Reads all examples of the tasks that have metrics.

    Raises:
      ValueError: no dataset function, or no example to evaluate.
    """
    if eval_dataset_fn is None:
        raise ValueError(
            "evaluation needs utils.run.eval_dataset_fn; in gin, for example: utils.run."
            "eval_dataset_fn = @t5.models.mesh_transformer.mesh_eval_dataset_fn"
        )
    datasets = eval_dataset_fn(
        sequence_length=sequence_length, vocabulary=vocabulary, dataset_split=split
    )
    tasks = []
    for dataset in datasets:
        dataset = mtf_dataset.EvalDataset(*dataset)
        if dataset.metric_fns:
            with tf.Graph().as_default():
                examples = list(tfds.as_numpy(dataset.dataset_fn()))
            targets = [_target(dataset, example) for example in examples]
            tasks.append(TaskExamples(dataset, examples, targets))
    if not any(task.examples for task in tasks):
        names = ", ".join(repr(dataset[0]) for dataset in datasets) or "none"
        raise ValueError(
            f"nothing to evaluate: no task with metrics has examples in split {split!r} (tasks: "
            f"{names}); name another with utils.run.dataset_split"
        )
    return [task for task in tasks if task.examples]


def _target(dataset: mtf_dataset.EvalDataset, example: Mapping[str, Any]) -> Any:
    return dataset.postprocess_fn(
        as_text(example["targets_pretokenized"]), example=example, is_target=True
    )


def as_text(value: Any) -> str:
    """Text from TensorFlow's bytes, or text as it is."""
    value = value.item() if hasattr(value, "item") else value
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def longest(tasks: Sequence[TaskExamples]) -> dict[str, int]:
    """Length of the longest inputs and targets of all examples, in tokens."""
    return {
        name: max(len(example[name]) for task in tasks for example in task.examples)
        for name in ("inputs", "targets")
    }


def evaluate_by_answers(
    estimator: Any, input_fn: InputFn, vocabulary: Any, tasks: Sequence[TaskExamples], path: str
) -> Iterator[Evaluation]:
    """Lets a checkpoint answer all examples, and scores the answers task by task."""
    answers = [as_text(answer) for answer in utils.decode(estimator, input_fn, vocabulary, path)]
    for task in tasks:
        own, answers = answers[: len(task.examples)], answers[len(task.examples) :]
        postprocess = task.dataset.postprocess_fn
        predictions = [postprocess(a, example=e) for a, e in zip(own, task.examples)]
        scores: dict[str, float] = {}
        for metric in task.dataset.metric_fns:
            scores.update(metric(task.targets, predictions))
        yield Evaluation(task, checkpoints.step_of(path), own, predictions, scores)


def write(
    folder: str,
    evaluations: Sequence[Evaluation],
    numbers: Mapping[str, float],
    with_examples: bool,
) -> None:
    """Writes scores for TensorBoard and as JSON, and inputs, targets and answers to text files."""
    tf.io.gfile.makedirs(folder)
    scores = {f"eval/{name}": value for name, value in numbers.items() if name != "global_step"}
    for evaluation in evaluations:
        name = evaluation.task.dataset.name
        scores.update({f"eval/{name}/{key}": v for key, v in evaluation.scores.items()})
        if with_examples:
            for filename, lines in _texts(evaluation):
                utils.write_lines_to_file(lines, os.path.join(folder, f"{name}_{filename}"))
    hooks.write_evaluation(folder, evaluations[0].step, scores)


def _texts(evaluation: Evaluation) -> list[tuple[str, list[Any]]]:
    examples = evaluation.task.examples
    inputs = [as_text(e["inputs_pretokenized"]) for e in examples if "inputs_pretokenized" in e]
    return [
        ("inputs", inputs),
        ("targets", evaluation.task.targets),
        (f"{evaluation.step}_predictions", evaluation.predictions),
    ]
