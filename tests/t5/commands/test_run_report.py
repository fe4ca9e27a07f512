"""The report that ends a training, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hmoe.report import make
from hmoe.startup import signals
from hmoe.startup.console import Console
from hmoe.startup.request import Request, TraceFlags
from hmoe.t5.commands import configure, run_report, trace
from hmoe.t5.evaluation import evaluate
from hmoe.t5.sessions import processes
from tests.t5 import tiny


class Said(Console):
    """A console that keeps its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, line: str = "", *, styled: str | None = None) -> None:
        self.said.append(line)


def written(
    monkeypatch: pytest.MonkeyPatch, held_out: Callable[..., None], report: Callable[..., None]
) -> list[str]:
    """What is said, with other functions in place of those that trace and report."""
    monkeypatch.setattr(trace, "trace_held_out", held_out)
    monkeypatch.setattr(make, "report", report)
    console = Said()
    console.log_path = "runs/a/log.txt"
    run_report.write(Request(command="train", model_dir="runs/a"), console)
    return console.said


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    return fail


def nothing(*arguments: object, **named: object) -> None:
    pass


def test_all_examples_of_the_evaluation_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    said = written(
        monkeypatch,
        lambda request, console, flags, *, or_nothing: calls.append((flags, or_nothing)),
        lambda folder, say: say(f"Wrote {folder}/report.html"),
    )
    assert calls == [(TraceFlags(), True)]
    assert said == ["", "Wrote runs/a/report.html"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no layer\n  In call to configurable"), "no layer"),
        (PermissionError(13, "Permission denied", "p"), "[Errno 13] Permission denied: 'p'"),
        (KeyError("step"), "unexpected KeyError: 'step'; the full traceback is in runs/a/log.txt"),
        (RuntimeError(), "unexpected RuntimeError; the full traceback is in runs/a/log.txt"),
    ],
)
@pytest.mark.parametrize("of_trace", [True, False])
def test_what_fails_is_said_in_a_line_and_ends_no_training(
    of_trace: bool,
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    functions = (raising(error), nothing) if of_trace else (nothing, raising(error))
    said = written(monkeypatch, *functions)
    assert said == ["", f"There is no report of this run: {line}"]
    logged = capsys.readouterr().err
    assert logged.startswith("Traceback (most recent call last):\n")
    assert type(error).__name__ in logged.splitlines()[-1 if line != "no layer" else -2]


def test_ctrl_c_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        written(monkeypatch, raising(KeyboardInterrupt()), nothing)
    # A library made another error of it.
    monkeypatch.setattr(signals, "interrupted", lambda: True)
    with pytest.raises(SystemError):
        written(monkeypatch, nothing, raising(SystemError()))


def test_a_process_beside_the_first_writes_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "is_first", lambda: False)
    assert written(monkeypatch, nothing, raising(ValueError())) == [""]


def test_a_dense_model_has_a_report_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only what runs T5 is replaced, and what reads the data."""
    prepared = SimpleNamespace(estimator=tiny.make(tmp_path, "dense_tiny"))
    evaluated: list[str] = []

    def run(request: Request, console: Console, mode: str, functions: dict, data: object) -> None:
        evaluated.append(mode)
        functions["evaluate"]()

    monkeypatch.setattr(trace, "run", run)
    monkeypatch.setattr(trace, "make_repeatable", nothing)
    monkeypatch.setattr(trace, "EvalRequest", nothing)
    monkeypatch.setattr(configure, "held_out_data", nothing)
    monkeypatch.setattr(evaluate, "prepare", lambda *unused: prepared)
    said = written(monkeypatch, trace.trace_held_out, lambda folder, say: say("Wrote the page"))
    assert (evaluated, said) == (["eval"], ["", "Wrote the page"])
    assert not list(tmp_path.glob("*.parquet"))
