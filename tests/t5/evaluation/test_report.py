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
    "encoder/block_000/layer_001/outer/fraction_tokens_left_behind": 0.031,
}
EXAMPLES = [
    {"inputs_pretokenized": b"de date: 1", "language": b"de", "kind": b"date"},
    {"inputs_pretokenized": b"fr date: 2", "language": b"fr", "kind": b"date"},
]


def evaluation(predictions: list[str]) -> Evaluation:
    targets = ["1", "b"]
    dataset = mtf_dataset.EvalDataset("foreign", None, None, [scores.exact_match])
    task = TaskExamples(dataset, EXAMPLES, targets)
    found = scores.exact_match(targets, predictions)
    return Evaluation(task, 7, predictions, predictions, found)


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
        "  layer                        level  imbalance (max / mean)  tokens left behind",
        "  ---------------------------  -----  ----------------------  ------------------",
        "  encoder/block_000/layer_001  outer                    1.46               3.1 %",
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
