"""A trace of another model is an error, and one of the run's own model is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hmoe.analysis import traces
from hmoe.analysis.traces import Trace
from hmoe.cli import main
from hmoe.report import runs, trace_checks
from tests.analysis import made_traces
from tests.report import made_runs

LAYER = made_runs.LAYER
OTHER = "decoder/block_007/layer_002"


def trace(leaves: Sequence[int], layer: str = LAYER, examples: int = 4) -> Trace:
    """Returns a trace in which every token goes to the first expert of each level."""
    experts = np.zeros((examples, 1, 3, len(leaves)), int)
    return made_traces.of_experts(experts, leaves, ["de"] * examples, layers=(layer,))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (trace((2, 3), OTHER), f"it has {OTHER}, but the run has {LAYER}"),
        (
            trace((4, 5)),
            f"it has {LAYER} as outer (4) and inner (5), but the run has outer (2) and inner (3)",
        ),
        (
            trace((2, 2, 3)),
            f"it has {LAYER} as outer (2) and middle (2) and inner (3), but the run has outer (2)"
            " and inner (3)",
        ),
    ],
    ids=["layer", "sizes", "depth"],
)
def test_a_trace_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture, given: Trace, problem: str
) -> None:
    run = made_runs.make(tmp_path / "run", made_runs.lines(3))
    path = tmp_path / "a.parquet"
    traces.write(str(path), given)
    assert main.main(["report", f"--model_dir={run}", f"--trace={path}"]) == 2
    assert capsys.readouterr() == (
        "",
        f"hmoe: error: {path}: a trace of another model than that of {str(run)!r}: {problem};"
        f" name a trace of this run, made by hmoe trace --model_dir={run}\n",
    )
    assert sorted(p.name for p in run.iterdir()) == [
        "metrics.jsonl",
        "operative_config.gin",
        "run.json",
    ]


def test_a_trace_without_tokens(tmp_path: Path) -> None:
    run = runs.read(str(made_runs.make(tmp_path / "run", made_runs.lines(3))))
    expected = "a.parquet: the trace has no tokens; trace the model again with more data"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        trace_checks.check(run, trace((2, 3), examples=0), "a.parquet")


def test_traces_that_fit(tmp_path: Path) -> None:
    whole = made_runs.lines(3)
    without_load = [{k: v for k, v in each.items() if "/load_" not in k} for each in whole]
    without_experts = [{"step": each["step"], "loss": each["loss"]} for each in whole]
    cases = [(whole, (2, 3)), (without_load, (4, 5)), (without_experts, (7,))]
    for number, (lines, leaves) in enumerate(cases):
        run = runs.read(str(made_runs.make(tmp_path / str(number), lines)))
        trace_checks.check(run, trace(leaves), "a.parquet")
