"""Traces a checkpoint on examples: who went where at each level of its expert layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from hmoe.analysis.trace_builder import ExampleInfo, TraceBuilder
from hmoe.analysis.traces import Manifest, Trace
from hmoe.compat.stack import tf
from hmoe.t5.evaluation import label_scores
from hmoe.t5.evaluation.results import EvalExample, TaskExamples
from hmoe.t5.evaluation.task_examples import as_text, vocabularies
from hmoe.t5.graphs.model_settings import ModelSettings, Vocabulary
from hmoe.t5.graphs.tracing import level_decisions
from hmoe.t5.sessions import checkpoints
from hmoe.t5.sessions.estimator import SessionEstimator
from hmoe.t5.sessions.estimator_protocol import InputFn
from hmoe.version import __version__


@dataclasses.dataclass(frozen=True)
class TracedData:
    """Examples to be traced.

    Attributes:
      input_fn: reads them in whole batches, the last one filled up with padding.
      examples: what is known of each of them, in their order; later rows are not traced.
    """

    input_fn: InputFn
    examples: Sequence[ExampleInfo]


def data_of_task(task: TaskExamples, input_fn: InputFn, limit: int | None) -> TracedData:
    """Returns the examples of a task.

    Args:
      task: the task.
      input_fn: reads them.
      limit: how many to trace; None for all.
    """
    number = task.num_examples if limit is None else min(limit, task.num_examples)
    kept: list[EvalExample] = list(task.examples[:number]) or [{}] * number
    labels = [name for name in label_scores.LABELS if label_scores.all_have(kept, name)]
    examples = [
        ExampleInfo(task.dataset.name, {name: as_text(each[name]) for name in labels})
        for each in kept
    ]
    return TracedData(input_fn, examples)


def trace(
    estimator: SessionEstimator,
    data: Sequence[TracedData],
    path: str,
    settings: Mapping[str, str],
) -> Trace:
    """Traces a checkpoint by teacher forcing, with the capacity of an evaluation.

    Args:
      estimator: the model.
      data: the examples.
      path: the checkpoint's path prefix.
      settings: what else the manifest says of the run.

    Raises:
      ValueError: the model has no expert layer, or the checkpoint does not match it.
    """
    batch_size = estimator.settings.batch_size
    first = [0, *accumulate(len(each.examples) for each in data)]
    rows_seen = [0] * len(data)
    builder: TraceBuilder | None = None
    for batch in estimator.trace([_limited(each, batch_size) for each in data], path):
        layers = [layer.info for layer in batch.layers]
        builder = builder or TraceBuilder(layers)
        number, begin = batch.number, rows_seen[batch.number]
        rows = np.arange(begin, begin + batch_size)
        rows_seen[number] += batch_size
        examples = np.where(rows < len(data[number].examples), first[number] + rows, -1)
        for index, (layer, arrays) in enumerate(zip(batch.layers, batch.decisions)):
            ids = batch.tokens[layer.info.sequence]
            builder.add(index, level_decisions(layer, arrays), ids, examples)
    if builder is None:
        raise ValueError("there is no example to trace")
    infos = [example for each in data for example in each.examples]
    manifest = Manifest(
        version=__version__,
        checkpoint=path,
        step=checkpoints.step_of(path),
        num_examples=len(infos),
        labels=tuple(n for n in label_scores.LABELS if any(n in each.labels for each in infos)),
        layers=tuple(layers),
        settings={**settings_of(estimator.settings), **settings},
    )
    return builder.build(manifest, infos, _pieces(estimator.settings.vocabulary))


def _limited(data: TracedData, batch_size: int) -> InputFn:
    """Returns a function that reads no more batches than are traced."""
    num_batches = -(-len(data.examples) // batch_size)
    return lambda params: data.input_fn(params).take(num_batches)


def settings_of(settings: ModelSettings) -> dict[str, str]:
    """Returns what a manifest says of a model's settings."""
    rules = sorted(settings.layout_rules._pairs)
    return {
        "activations": settings.variable_dtype.activation_dtype.name,
        "mesh": ";".join(f"{dim.name}:{dim.size}" for dim in settings.mesh_shape.dims),
        "layout": ";".join(f"{name}:{axis}" for name, axis in rules),
        "batch size": str(settings.batch_size),
    }


def _pieces(vocabulary: Vocabulary) -> Callable[[str, int], str]:
    """Returns a function that names the tokens of "inputs" and "targets"."""
    known = vocabularies(vocabulary)

    def piece(sequence: str, number: int) -> str:
        own = known[sequence]
        if number == 0:
            return "<start>" if sequence == "targets" else "<padding>"
        if number == own.eos_id:
            return "<end>"
        tokenizer: Any = getattr(own, "tokenizer", None)
        if hasattr(tokenizer, "IdToPiece"):  # SentencePiece's, which marks beginnings of words
            return tokenizer.IdToPiece(number)
        # A byte that is part of a character has no text of its own.
        text = own.decode([number])
        return text if text and "\N{REPLACEMENT CHARACTER}" not in text else f"<{number}>"

    return piece


def data_of_lines(
    settings: ModelSettings, inputs: Sequence[str], targets: Sequence[str]
) -> TracedData:
    """Returns lines with their answers as examples to be traced.

    Args:
      settings: the model's settings; its batch takes all of the lines.
      inputs: the lines.
      targets: the answers.
    """
    texts = {"inputs": inputs, "targets": targets}
    if settings.model_type == "lm":
        texts = {"targets": [f"{line} {answer}" for line, answer in zip(inputs, targets)]}
    batch = {name: _rows(settings, name, lines) for name, lines in texts.items()}
    examples = [ExampleInfo("typed", {})] * len(inputs)
    return TracedData(lambda _: tf.data.Dataset.from_tensors(batch), examples)


def _rows(settings: ModelSettings, name: str, lines: Sequence[str]) -> np.ndarray:
    """Returns ids int32 [batch, length], whose rows after the lines are padding."""
    vocabulary = vocabularies(settings.vocabulary)[name]
    rows = np.zeros([settings.batch_size, settings.sequence_length[name]], np.int32)
    for row, line in zip(rows, lines):
        ids = [*vocabulary.encode(line.strip()), vocabulary.eos_id]
        row[: len(ids)] = ids[: len(row)]
    return rows
