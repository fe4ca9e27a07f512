"""Tasks that cannot be evaluated, and the texts of examples."""

from __future__ import annotations

import numpy as np
import pytest

from hmoe.compat.stack import tf
from hmoe.t5.data import scores, tasks
from hmoe.t5.evaluation import task_examples
from tests.t5 import tiny

ROWS = {
    "inputs": [[3, 1], [4, 1]],
    "targets": [[5, 6, 1], [7, 1, 0]],
    "targets_pretokenized": ["ab", "c"],
}


def dataset_fn(metric_fns: list, rows: dict = ROWS):
    def load(sequence_length, vocabulary, dataset_split):
        def dataset():
            return tf.data.Dataset.from_tensor_slices(rows)

        return [("mine", dataset, tasks.keep_text, metric_fns)]

    return load


def test_examples_and_targets_of_a_task() -> None:
    (task,) = task_examples.load_tasks(
        dataset_fn([scores.exact_match]), None, tiny.VOCABULARY, "test"
    )
    assert (task.dataset.name, task.targets, len(task.examples)) == ("mine", ["ab", "c"], 2)
    assert task.is_decoded
    assert task_examples.longest([task]) == {"inputs": 2, "targets": 3}


def test_text_is_decoded_from_ids_where_a_task_leaves_it_out() -> None:
    ids = {"inputs": [[100, 1], [101, 1]], "targets": [[102, 103, 1], [104, 1, 0]]}
    (task,) = task_examples.load_tasks(
        dataset_fn([scores.exact_match], ids), None, tiny.VOCABULARY, "test"
    )
    assert task.targets == ["cd", "e"]
    assert [example["inputs_pretokenized"] for example in task.examples] == [b"a", b"b"]


def test_a_task_without_inputs_is_not_decoded() -> None:
    targets = {"targets": ROWS["targets"]}
    (task,) = task_examples.load_tasks(
        dataset_fn([scores.exact_match], targets), None, tiny.VOCABULARY, "test"
    )
    assert (task.is_decoded, task.num_examples, task.examples) == (False, 2, [])
    assert task_examples.longest([task]) == {"targets": 3}


def test_no_dataset_function() -> None:
    with pytest.raises(ValueError) as error:
        task_examples.load_tasks(None, None, None, "test")
    assert str(error.value) == (
        "evaluation needs utils.run.eval_dataset_fn; in gin, for example: utils.run.eval_dataset_fn"
        " = @t5.models.mesh_transformer.mesh_eval_dataset_fn"
    )


def test_a_task_without_metrics_keeps_no_examples() -> None:
    (task,) = task_examples.load_tasks(dataset_fn([]), None, tiny.VOCABULARY, "test")
    assert (task.is_decoded, task.num_examples, task.examples, task.targets) == (False, 2, [], [])
    assert task_examples.longest([task]) == {"inputs": 2, "targets": 3}


def test_no_examples() -> None:
    none = {"inputs": np.zeros([0, 2]), "targets": np.zeros([0, 3])}
    with pytest.raises(ValueError) as error:
        task_examples.load_tasks(dataset_fn([], none), None, tiny.VOCABULARY, "test")
    assert str(error.value) == (
        "nothing to evaluate: no task has examples in split 'test' (tasks: 'mine'); name another "
        "split with utils.run.dataset_split"
    )


@pytest.mark.parametrize(
    "value", ["é", "é".encode(), np.array("é".encode(), object)], ids=["text", "bytes", "scalar"]
)
def test_text_of_a_value(value) -> None:
    assert task_examples.as_text(value) == "é"


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert task_examples.as_text(b"a\xff") == "a\N{REPLACEMENT CHARACTER}"
