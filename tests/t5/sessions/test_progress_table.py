"""The bar and the table that a terminal shows, at several widths."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from hmoe.t5.sessions import progress_table
from hmoe.t5.sessions.progress_report import ProgressReport
from tests.levels import state

NUMBERS = {
    "loss": 1.5,
    "cross_ent_loss": 1.25,
    "experts/fraction_tokens_left_behind": 0.031,
    "experts/load_imbalance": 1.456,
    "steps_per_second": 2.0,
    "tokens_per_second": 5312.4,
}
LEVELS = [
    state(load=np.array([3.0, 1.0]), dropped=0.01),
    state("inner", load=np.array([[2.0, 2.0, 2.0], [4.0, 4.0, 4.0]]), dropped=0.04),
    state(layer="decoder/block_000/layer_002", load=np.array([2.0, 2.0]), dropped=0.02),
    state(
        "inner",
        layer="decoder/block_000/layer_002",
        load=np.array([[2.0, 2.0, 2.0], [6.0, 0.0, 0.0]]),
        dropped=0.05,
    ),
]


def drawn(width: int, *arguments: object) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
    with console.capture() as capture:
        console.print(progress_table.picture(*arguments))  # type: ignore[arg-type]
    text = capture.get().replace("\x1b[1m", "").replace("\x1b[0m", "")
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_picture_of_two_levels(width: int) -> None:
    lines = drawn(width, 150, 600, ProgressReport(100, 600, NUMBERS, LEVELS))
    bar = lines.pop(0)
    # 450 steps are left at 2 steps a second; a quarter of the bar is drawn.
    assert bar.startswith("step 150 of 600 ━")
    assert bar.endswith(" 25 %, 3 min 45 s left")
    assert len(bar) == width
    assert bar.count("━") == (width - 38) // 4
    assert lines == [
        "loss 1.5000   cross entropy 1.2500   left behind 3.1 %   tokens/s 5,312",
        "level   dropped   imbalance   worst   the worst is at",
        "─────────────────────────────────────────────────────────────────",
        "outer     1.5 %        1.25    1.50   encoder/block_000/layer_001",
        # Of 12 tokens 6 come to each group: the imbalance is (1 + 3) / 2.
        "inner     4.5 %        1.50    2.00   decoder/block_000/layer_002",
    ]


def test_the_worst_of_all_is_bold() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True)
    with console.capture() as capture:
        report = ProgressReport(100, 600, NUMBERS, LEVELS)
        console.print(progress_table.picture(100, 600, report))
    *_, outer, inner = capture.get().splitlines()
    assert "\x1b[1m" not in outer
    assert inner.startswith("\x1b[1minner")


def test_a_narrow_terminal_shortens_the_name_of_the_layer() -> None:
    lines = drawn(50, 150, 600, ProgressReport(100, 600, NUMBERS, LEVELS))
    assert max(map(len, lines)) <= 50
    assert lines[-1].endswith("…")


def test_picture_before_the_first_report() -> None:
    (line,) = drawn(60, 1, 600, None)
    assert line.startswith("step   1 of 600 ")
    assert line.endswith(" 0 %")


def test_picture_of_a_dense_model() -> None:
    _, line = drawn(60, 600, 600, ProgressReport(600, 600, {"loss": 1.5, "cross_ent_loss": 1.25}))
    assert line == "loss 1.5000   cross entropy 1.2500"
