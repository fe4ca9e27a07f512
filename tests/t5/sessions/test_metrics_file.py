"""The file of metrics: when training resumes, when a checkpoint is evaluated again, when torn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hmoe.t5.sessions import metrics_file


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    metrics_file.keep_lines(path, lambda step: step <= 5)
    for step in (2, 4, 6, 8):
        metrics_file.append_line(path, step, {"loss": float(step)})
    metrics_file.keep_lines(path, lambda step: step <= 5)
    metrics_file.append_line(path, 6, {"loss": 60.0})
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 2.0), (4, 4.0), (6, 60.0)]


def test_a_checkpoint_evaluated_again_has_one_line(tmp_path: Path) -> None:
    for step, loss in ((10, 3.0), (20, 2.0), (10, 4.0)):
        metrics_file.write_evaluation(str(tmp_path), step, {"eval/loss": loss})
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["eval/loss"]) for line in lines] == [(20, 2.0), (10, 4.0)]


TWO = '{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 0.5}\n'


@pytest.mark.parametrize(
    ("text", "kept", "said"),
    [
        (TWO[:-9].encode(), [2], "removed 1 damaged of 2 lines (line 2)"),
        (TWO[:-1].encode(), [2, 4], None),
        (b"", [], None),
        (b"something else\n" + TWO.encode(), [2, 4], "removed 1 damaged of 3 lines (line 1)"),
        (bytes(40), [], "removed 1 damaged of 1 lines (line 1)"),
        (b"\xff\xfe{\n" + TWO.encode(), [2, 4], "removed 1 damaged of 3 lines (line 1)"),
        (b'[1]\n7\n"x"\n{"loss": 1}\n{"step": "2"}\n{"step": null}\n' + TWO.encode(), [2, 4],
         "removed 6 damaged of 8 lines (line 1, 2, 3, 4, 5, ...)"),
    ],
    ids=["torn", "no end", "empty", "other text", "zeros", "bytes", "other json"],
)  # fmt: skip
def test_only_damaged_lines_are_lost(
    tmp_path: Path, text: bytes, kept: list[int], said: str | None
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(text)
    lines: list[str] = []
    metrics_file.keep_lines(str(file), lambda step: True, lines.append)
    assert lines == ([f"{file}: {said}"] if said else [])
    assert [line["step"] for line in lines_of(file)] == kept
    metrics_file.append_line(str(file), 6, {"loss": 0.25})
    assert [line["step"] for line in lines_of(file)] == [*kept, 6]
    metrics_file.keep_lines(str(file), lambda step: True, pytest.fail)


def test_a_line_is_never_joined_to_a_torn_one(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(TWO[:-9])
    metrics_file.append_line(str(file), 6, {"loss": 0.25})
    *_, torn, last = file.read_text().splitlines()
    assert torn == TWO.splitlines()[1][:-8]
    assert json.loads(last)["step"] == 6


def test_a_rewriting_that_fails_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(TWO)

    def full(path: str, text: str) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(metrics_file.atomic_write, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        metrics_file.keep_lines(str(file), lambda step: step < 4)
    assert file.read_text() == TWO
