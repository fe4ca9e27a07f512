"""What an evaluation leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from hmoe.compat.stack import tf
from hmoe.t5.evaluation import result_files
from tests.t5.evaluation.test_report import NUMBERS, evaluation


def test_scores_by_language_and_kind_are_kept(tmp_path: Path) -> None:
    result_files.write(str(tmp_path), [evaluation(["a", "b"])], {"loss": NUMBERS["loss"]}, False)
    (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    numbers = json.loads(line)
    del numbers["time"]
    assert numbers == {
        "step": 7,
        "eval/loss": 1.25,
        "eval/foreign/loss": 1.25,
        "eval/foreign/cross_ent_loss": 1.5,
        "eval/foreign/token_accuracy": 0.321,
        "eval/foreign/exact_match": 50.0,
        "eval/foreign/language=de/count": 1.0,
        "eval/foreign/language=de/exact_match": 0.0,
        "eval/foreign/language=de/chrf": 0.0,
        "eval/foreign/language=fr/count": 1.0,
        "eval/foreign/language=fr/exact_match": 100.0,
        "eval/foreign/language=fr/chrf": 100.0,
        "eval/foreign/kind=date/count": 2.0,
        "eval/foreign/kind=date/exact_match": 50.0,
        "eval/foreign/kind=date/chrf": 50.0,
    }
    (events,) = tmp_path.glob("events.*")
    tags = {
        value.tag
        for event in tf.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    assert tags == set(numbers) - {"step"}
