"""The line that reports the progress of training."""

from __future__ import annotations

from hmoe.t5.sessions.progress_report import ProgressReport, progress_line


def test_progress_line_of_experts() -> None:
    numbers = {
        "loss": 1.5,
        "cross_ent_loss": 1.25,
        "experts/fraction_tokens_left_behind": 0.031,
        "experts/load_imbalance": 1.456,
        "steps_per_second": 2.0,
        "tokens_per_second": 5312.4,
    }
    assert progress_line(ProgressReport(100, 600, numbers)) == (
        "step 100 of 600 | loss 1.5000 | cross_ent_loss 1.2500 | left behind 3.1 % | "
        "imbalance 1.46 | 5,312 tokens/s | 4 min 10 s left"
    )


def test_progress_line_of_a_dense_model_at_the_first_step() -> None:
    line = progress_line(ProgressReport(1, 600, {"loss": 1.5, "cross_ent_loss": 1.25}))
    assert line == "step   1 of 600 | loss 1.5000 | cross_ent_loss 1.2500"
