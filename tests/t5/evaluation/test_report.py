"""The printed report of an evaluation."""

from __future__ import annotations

import pytest
from mesh_tensorflow.transformer import dataset as mtf_dataset

from hmoe.startup import command_line
from hmoe.t5.data import scores
from hmoe.t5.evaluation import report
from hmoe.t5.evaluation.results import Evaluation, TaskExamples

NUMBERS = {
    "loss": 1.25,
    "cross_ent_loss": 1.5,
    "token_accuracy": 0.321,
    "encoder/block_000/layer_001/outer/load_imbalance": 1.456,
    "encoder/block_000/layer_001/outer/fraction_arrivals_dropped": 0.031,
}
EXAMPLES = [
    {"inputs_pretokenized": b"de date: 1", "language": b"de", "kind": b"date"},
    {"inputs_pretokenized": b"fr date: 2", "language": b"fr", "kind": b"date"},
]


def evaluation(predictions: list[str]) -> Evaluation:
    targets = ["1", "b"]
    dataset = mtf_dataset.EvalDataset("foreign", None, None, [scores.exact_match])
    task = TaskExamples(dataset, EXAMPLES, targets, 2, {"inputs": 9, "targets": 2})
    found = scores.exact_match(targets, predictions)
    return Evaluation(task, 7, NUMBERS, predictions, predictions, found)


def without_scores(metric_fns: list, longest: dict[str, int]) -> Evaluation:
    dataset = mtf_dataset.EvalDataset("gaps", None, None, metric_fns)
    numbers = {"loss": 2.25, "cross_ent_loss": 2.5, "token_accuracy": 0.4}
    return Evaluation(TaskExamples(dataset, [], [], 5, longest), 7, numbers)


def test_report_of_a_checkpoint() -> None:
    lines: list[str] = []
    report.print_evaluation(lines.append, [evaluation(["a", "b\n"])], NUMBERS)
    assert lines == [
        "",
        "foreign, step 7: 2 held-out examples",
        "",
        "                     exact_match",
        "  -----------------  -----------",
        "  the model                  0.0",
        "  copying the input         50.0",
        "",
        "  language  count  exact_match   chrf",
        "  --------  -----  -----------  -----",
        "  de            1          0.0    0.0",
        "  fr            1          0.0  100.0",
        "",
        "  kind  count  exact_match  chrf",
        "  ----  -----  -----------  ----",
        "  date      2          0.0  50.0",
        "",
        "2 predictions beside their references (= marks a match)",
        "  de date: 1",
        "      a",
        "      1  (reference)",
        "  fr date: 2",
        "      b\N{REPLACEMENT CHARACTER}",
        "      b  (reference)",
        "",
        "Teacher forcing, all tasks: cross_ent_loss 1.5000 nats per token (loss 1.2500, divided by all positions), 32.1 % of tokens right",
        "",
        "  layer                        level  imbalance (max / mean)  arrivals dropped",
        "  ---------------------------  -----  ----------------------  ----------------",
        "  encoder/block_000/layer_001  outer                    1.46             3.1 %",
    ]


def test_tasks_that_are_not_decoded() -> None:
    lines: list[str] = []
    both = {"inputs": 9, "targets": 2}
    evaluations = [
        without_scores([], both),
        without_scores([scores.exact_match], {"targets": 2}),
    ]
    dense = {name: NUMBERS[name] for name in ("loss", "cross_ent_loss", "token_accuracy")}
    report.print_evaluation(lines.append, evaluations, dense)
    assert lines == [
        "",
        "gaps, step 7: 5 held-out examples; the task has no metrics of its own, so it is evaluated by teacher forcing alone",
        "",
        "gaps, step 7: 5 held-out examples; the task has no inputs to decode from, so it is evaluated by teacher forcing alone",
        "",
        *[
            "Teacher forcing, gaps: cross_ent_loss 2.5000 nats per token (loss 2.2500, divided by all positions), 40.0 % of tokens right"
        ]
        * 2,
        "Teacher forcing, all tasks: cross_ent_loss 1.5000 nats per token (loss 1.2500, divided by all positions), 32.1 % of tokens right",
    ]


def test_a_match_is_marked() -> None:
    lines: list[str] = []
    report.print_predictions(lines.append, evaluation(["1", "b"]))
    assert lines[2:] == ["  de date: 1", "    = 1", "  fr date: 2", "    = b"]


def test_a_dense_model_has_no_table_of_experts() -> None:
    lines: list[str] = []
    report.print_expert_load(lines.append, {"loss": 1.0})
    assert lines == []


def test_many_values_of_a_label_are_cut() -> None:
    lines: list[str] = []
    many = {f"{i:02d}": {"count": float(i), "exact_match": 50.0} for i in range(30)}
    report.print_scores_by_label(lines.append, "language", many)
    assert len(lines) == 1 + 2 + report.MAX_GROUPS + 1
    assert lines[3] == "  06            6         50.0"
    assert lines[-1] == "  and 6 more, with no more examples each"


def test_files_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands work as they are printed."""
    lines: list[str] = []
    monkeypatch.setattr(command_line, "beside_program", lambda name: f".venv/bin/{name}")
    report.print_run_files(lines.append, "my m", "my m/model.ckpt-4", "my m/log.txt")
    assert lines == [
        "",
        "Checkpoint   my m/model.ckpt-4",
        "Curves       my m/metrics.jsonl",
        "TensorBoard  .venv/bin/tensorboard --logdir='my m'",
        "Log          my m/log.txt",
        "Predict      hmoe predict --model_dir='my m'",
    ]


def test_tensorboard_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(command_line, "beside_program", lambda name: None)
    report.print_run_files(lines.append, "m", "m/model.ckpt-4", "m/log.txt")
    assert lines[3] == ("TensorBoard  pip install tensorboard, then: tensorboard --logdir=m")
