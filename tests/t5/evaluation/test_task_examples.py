"""Tasks that cannot be evaluated, and the texts of examples."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.t5.data import scores, tasks
from hmoe.t5.evaluation import task_examples

ROWS = {
    "inputs": [[3, 1], [4, 1]],
    "targets": [[5, 6, 1], [7, 1, 0]],
    "targets_pretokenized": ["ab", "c"],
}


def dataset_fn(metric_fns: list):
    def load(sequence_length, vocabulary, dataset_split):
        def dataset():
            return tf.data.Dataset.from_tensor_slices(ROWS)

        return [("mine", dataset, tasks.keep_text, metric_fns)]

    return load


def test_examples_and_targets_of_a_task() -> None:
    (task,) = task_examples.load_tasks(dataset_fn([scores.exact_match]), None, None, "test")
    assert (task.dataset.name, task.targets, len(task.examples)) == ("mine", ["ab", "c"], 2)
    assert task_examples.longest([task]) == {"inputs": 2, "targets": 3}


def test_no_dataset_function() -> None:
    with pytest.raises(ValueError) as error:
        task_examples.load_tasks(None, None, None, "test")
    assert str(error.value) == (
        "evaluation needs utils.run.eval_dataset_fn; in gin, for example: utils.run.eval_dataset_fn"
        " = @t5.models.mesh_transformer.mesh_eval_dataset_fn"
    )


def test_no_task_with_metrics() -> None:
    with pytest.raises(ValueError) as error:
        task_examples.load_tasks(dataset_fn([]), None, None, "test")
    assert str(error.value) == (
        "nothing to evaluate: no task with metrics has examples in split 'test' (tasks: 'mine'); "
        "name another split with utils.run.dataset_split"
    )


@pytest.mark.parametrize(
    "value", ["é", "é".encode(), np.array("é".encode(), object)], ids=["text", "bytes", "scalar"]
)
def test_text_of_a_value(value) -> None:
    assert task_examples.as_text(value) == "é"


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert task_examples.as_text(b"a\xff") == "a\N{REPLACEMENT CHARACTER}"
