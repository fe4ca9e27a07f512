"""The file of metrics, when training resumes and when a checkpoint is evaluated again."""

from __future__ import annotations

import json
from pathlib import Path

from hmoe.t5.sessions import metrics_file


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    metrics_file.keep_lines(path, lambda step: step <= 5)
    for step in (2, 4, 6, 8):
        metrics_file.append_line(path, step, {"loss": float(step)})
    metrics_file.keep_lines(path, lambda step: step <= 5)
    metrics_file.append_line(path, 6, {"loss": 60.0})
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 2.0), (4, 4.0), (6, 60.0)]


def test_a_checkpoint_evaluated_again_has_one_line(tmp_path: Path) -> None:
    for step, loss in ((10, 3.0), (20, 2.0), (10, 4.0)):
        metrics_file.write_evaluation(str(tmp_path), step, {"eval/loss": loss})
    with open(tmp_path / "metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [(line["step"], line["eval/loss"]) for line in lines] == [(20, 2.0), (10, 4.0)]
