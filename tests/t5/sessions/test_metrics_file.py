"""Lines of progress, and the file of metrics over a resume."""

from __future__ import annotations

import json
from pathlib import Path

from hmoe.t5.sessions import hooks


def test_progress_line_of_experts() -> None:
    numbers = {
        "loss": 1.5,
        "cross_ent_loss": 1.25,
        "experts/fraction_tokens_left_behind": 0.031,
        "experts/load_imbalance": 1.456,
        "steps_per_second": 2.0,
        "tokens_per_second": 5312.4,
    }
    assert hooks.progress_line(100, 600, numbers) == (
        "step 100 of 600 | loss 1.5000 | cross_ent_loss 1.2500 | left behind 3.1 % | "
        "imbalance 1.46 | 5,312 tokens/s | 4 min 10 s left"
    )


def test_progress_line_of_a_dense_model_at_the_first_step() -> None:
    line = hooks.progress_line(1, 600, {"loss": 1.5, "cross_ent_loss": 1.25})
    assert line == "step   1 of 600 | loss 1.5000 | cross_ent_loss 1.2500"


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    hooks.keep_lines(path, lambda step: step <= 5)
    for step in (2, 4, 6, 8):
        hooks.append_line(path, step, {"loss": float(step)})
    hooks.keep_lines(path, lambda step: step <= 5)
    hooks.append_line(path, 6, {"loss": 60.0})
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 2.0), (4, 4.0), (6, 60.0)]


def test_a_checkpoint_evaluated_again_has_one_line(tmp_path: Path) -> None:
    for step, loss in ((10, 3.0), (20, 2.0), (10, 4.0)):
        hooks.write_evaluation(str(tmp_path), step, {"eval/loss": loss})
    with open(tmp_path / "metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [(line["step"], line["eval/loss"]) for line in lines] == [(20, 2.0), (10, 4.0)]
