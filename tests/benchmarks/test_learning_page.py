"""The tables of the learning study, from results that are made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import learning_page
from benchmarks.learning_twins import DENSE, FLAT, LONG_DENSE, TREE

WAYS = ("top_leaves", "top_groups", "random_leaves", "random_groups")
RUN = {
    "date": "2026-01-02",
    "processor": "a processor",
    "memory_gb": 3.4,
    "platform": "Linux",
    "commit": "abc",
    "command": "python -m benchmarks.learning_study",
}


def result(twin: str, seed: int, loss: float, **more: Any) -> dict[str, Any]:
    drops: dict[str, float] = {}
    if twin == FLAT:
        drops = {"flat": 0.01 * seed}
    if twin == TREE:
        drops = {"outer": 0.01, "inner": 0.02 * seed}
    return {
        "task": "formats",
        "twin": twin,
        "seed": seed,
        "steps": 100,
        "cross_entropy": loss,
        "exact_match": 10.0 * seed,
        "dropped": {"training": drops},
        **more,
    }


def known(outer: float, inner: float, z: float) -> dict[str, Any]:
    levels = [{"share": outer, "z": z}, {"share": inner, "z": z + 1}]
    given = {"share": 0.5, "z": z}
    return {
        "information": {"encoder/block_000/layer_001": {"levels": levels, "given token": given}}
    }


def retained(top: float) -> dict[str, Any]:
    excess = {"0.25": dict(zip(WAYS, (top, 2 * top, 3 * top, 4 * top)))}
    return {"retention": {"loss": 1.0, "excess": excess}}


RESULTS = [
    *(result(DENSE, 1, 1.0), result(DENSE, 2, 1.0)),
    *(result(LONG_DENSE, 1, 0.5), result(LONG_DENSE, 2, 0.5)),
    *(result(FLAT, 1, 0.8), result(FLAT, 2, 0.9)),
    result(TREE, 1, 0.8012, **known(0.01, 0.02, 7), **retained(0.5)),
    result(TREE, 2, 0.8995, **known(0.03, 0.02, 3)),
]


def test_losses() -> None:
    rows = learning_page.losses(RESULTS)[2:]
    # Student's t with one degree of freedom is 12.7062: 0.85 +- 12.7062 * 0.05.
    assert rows[2] == (
        "| formats | 16 flat | 2 | 0.8500 (0.2147 to 1.4853) | 15.0 (-48.5 to 78.5) | flat 1.5 |"
    )
    assert rows[3].endswith("| outer 1.0, inner 3.0 |")
    assert rows[0].endswith("| - |")


def test_differences_are_of_the_same_seeds() -> None:
    rows = learning_page.differences(RESULTS)[2:]
    assert [row.split(" | ")[1] for row in rows] == [DENSE, LONG_DENSE, f"**{TREE}**"]
    # +0.0012 and -0.0005: 6.3138 * 0.00085 at each side; 9.6 standard errors from the margin 0.0085.
    assert rows[2] == (
        "| formats | **4 x 4** | 2 | +0.0003 (-0.0050 to +0.0057) | +0.0 (-0.6 to +0.7) | 0.033 |"
        " equivalent |"
    )
    assert rows[1].endswith("| not shown |")


def test_dense_steps_by_a_power_law() -> None:
    rows = learning_page.dense_steps(RESULTS)[2:]
    # Loss is 1 / steps: 0.8 after 125 steps and 0.9 after 111.1, of 100 of the others.
    assert rows[0].startswith("| formats | 16 flat | 118 (")
    assert " | 1.18 (" in rows[0]


def test_costs_are_sums_by_axis() -> None:
    def sent(kind: str, size: float, *axes: str) -> dict[str, Any]:
        return {"kind": kind, "size": size, "axes": list(axes)}

    plan = {
        "multiplications": [
            {"part": "experts", "multiplications": 4e6},
            {"part": "other", "multiplications": 3e6},
        ],
        "memory": {"parameters": 1.5e6},
        "exchanges": [
            *(sent("all-to-all", 1e6, "rows"), sent("all-to-all", 2e6, "cols")),
            *(sent("all-to-all", 4e6, "rows"), sent("all-reduce", 8e6, "rows", "cols")),
        ],
    }
    rows = learning_page.costs({"names": {TREE: plan, DENSE: plan, "16 x 1": None}})[2:]
    assert rows == [
        "| names | 4 x 4 | 7 | 4 | 1.50 | 5.00 | 2.00 | 8.00 |",
        "| names | dense | 7 | - | 1.50 | 5.00 | 2.00 | 8.00 |",
        "| names | 16 x 1 | - | - | - | - | - | - |",
    ]


def test_what_levels_know_and_what_leaving_out_costs() -> None:
    assert learning_page.known(RESULTS)[2:] == [
        "| formats | 4 x 4 | encoder | 2.00 + 2.00 | 3 | 50.00 | 3 |"
    ]
    assert learning_page.retained(RESULTS)[2:] == [
        "| formats | 4 x 4 | 25% | +0.500 | +1.000 | +1.500 | +2.000 |"
    ]


def test_words_of_the_page_stay(tmp_path: Path) -> None:
    learning_page.write(tmp_path, RESULTS, {}, RUN)
    page = tmp_path / "learning.md"
    with_words = f"# Title\n{page.read_text()}Words after it.\n"
    page.write_text(with_words)
    learning_page.write(tmp_path, RESULTS, {}, RUN)
    assert page.read_text() == with_words
    assert "2026-01-02, a processor, 3 GB, Linux; commit abc" in with_words
    svg = (tmp_path / "learning.svg").read_text()
    assert "experts of 4 x 4 left out, over languages" in svg


@pytest.mark.parametrize(("wanted", "factor"), [(1.0, 1.0), (0.5, 2.0), (0.25, 4.0)])
def test_the_power_law_meets_both_lengths(wanted: float, factor: float) -> None:
    assert learning_page._factor(1.0, 0.5, wanted) == pytest.approx(factor)
