"""What crosses hosts by arithmetic, against messages counted one by one; the page; a real run."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import namespaces, slow_links, two_levels_page, why_two_levels
from benchmarks.slow_links import Level
from benchmarks.workers import ROOT

FLAT, TWO = (Level(2, 1.5),), (Level(2, 1.5), Level(2, 1.0))


def sent_one_by_one(
    hosts: int, inside: int, flat: bool, slots: int, depth: int
) -> tuple[int, float]:
    """Messages and bytes over the links in one exchange of tokens, from the pairs of processes."""
    messages, size = 0, 0.0
    places = list(itertools.product(range(hosts), range(inside)))
    for (host, place), (other_host, other_place) in itertools.product(places, places):
        if host != other_host and (flat or place == other_place):
            messages += 1
            size += 4 * slots * depth / (hosts * inside if flat else hosts)
    return messages, size


@pytest.mark.parametrize(("hosts", "inside"), [(2, 3), (3, 2), (5, 1), (1, 4)])
@pytest.mark.parametrize("levels", [FLAT, TWO], ids=["flat", "two"])
def test_a_step_has_four_exchanges_of_tokens(
    hosts: int, inside: int, levels: tuple[Level, ...]
) -> None:
    messages, size = sent_one_by_one(hosts, inside, len(levels) == 1, slots=90, depth=7)
    found = slow_links.crossing(hosts, inside, levels, tokens=60, d_model=7)
    assert found.messages * hosts * inside == 4 * messages
    assert found.size * hosts * inside == pytest.approx(4 * size)


@pytest.mark.parametrize(("hosts", "inside"), [(2, 3), (3, 2), (5, 1)])
def test_the_share_of_a_collective_is_that_of_its_pairs(hosts: int, inside: int) -> None:
    number = hosts * inside
    pairs = list(itertools.permutations(range(number), 2))
    across = sum(a // inside != b // inside for a, b in pairs)
    assert slow_links.share("all-to-all", ["all"], hosts, inside) == across / len(pairs)
    ring = sum(a // inside != (a + 1) % number // inside for a in range(number))
    assert slow_links.share("all-reduce", ["rows", "cols"], hosts, inside) == ring / number
    assert slow_links.share("all-to-all", ["cols"], hosts, inside) == 1
    assert slow_links.share("all-to-all", ["rows"], hosts, inside) == 0


def test_all_variants_have_the_same_slots_of_experts() -> None:
    for levels in why_two_levels.VARIANTS.values():
        slots = 1.0
        for level in levels:
            slots *= level.factor
        assert slots == 2.0


def row(variant: str, megabits: int, seconds: float, size: float) -> dict:
    return {
        "work": "layer",
        "variant": variant,
        "hosts": 2,
        "inside": 3,
        "megabits": megabits,
        "seconds": seconds,
        "counted": 1.01 * size,
        "by counters": size,
        "by arithmetic": size,
        "messages": 12,
        "collectives": 7,
    }


def test_the_page_has_every_row_beside_its_prediction(tmp_path: Path) -> None:
    page = tmp_path / "why_two_levels.md"
    page.write_text("# Why\n<!-- table: begin -->\nold\n<!-- table: end -->\nAfter.\n")
    run = {
        "date": "2026-01-02",
        "processor": "2 x Chip",
        "memory_gb": 8.0,
        "platform": "Linux x86_64",
        "commit": "abc",
        "turns": 5,
        "command": "python -m it",
    }
    other = dict(run, command="python -m it --more")
    two_levels_page.add(tmp_path, [row("flat", 0, 0.25, 4e6), row("flat", 16, 1.5, 4e6)], run)
    two_levels_page.add(tmp_path, [row("two", 0, 0.5, 2e6), row("flat", 16, 1.375, 4e6)], other)
    text = page.read_text()
    # Each of two hosts sends 2 MB at 2 MB a second.
    assert "| 2 x 3 | flat | 12 | 4.00 | 4.00 | 4.04 | 0.250 | 1.375 (1.250) |" in text
    assert "| 2 x 3 | two | 12 | 2.00 | 2.00 | 2.02 | 0.500 |  |" in text
    assert text.startswith("# Why\n<!-- table: begin -->\n- 2026-01-02, 2 x Chip, 8 GB")
    assert text.count("python -m it") == 2
    assert text.endswith("<!-- table: end -->\nAfter.\n")
    assert "old" not in text
    assert len(json.loads((tmp_path / "why_two_levels.json").read_text())["rows"]) == 3
    assert (tmp_path / "why_two_levels.svg").read_text().count("<rect") == 1 + 3


@pytest.mark.slow
@pytest.mark.skipif(namespaces.missing() is not None, reason=str(namespaces.missing()))
def test_bytes_over_the_links_are_those_of_the_counters(tmp_path: Path) -> None:
    """The command as the page has it, at one rate."""
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.why_two_levels", "--places", "2x2"),
            *("--rates", "0", "200", "--steps", "3", "--work", "layer, 512 tokens"),
            *("--out", str(tmp_path)),
        ],
        cwd=ROOT,
        check=True,
        timeout=900,
    )
    rows = json.loads((tmp_path / "why_two_levels.json").read_text())["rows"]
    assert len(rows) == 2 * len(why_two_levels.VARIANTS)
    for each in rows:
        assert each["counted"] == pytest.approx(each["by counters"], rel=0.05)
        assert each["by counters"] == pytest.approx(each["by arithmetic"], rel=0.05)
    counted = {each["variant"]: each["counted"] for each in rows if each["megabits"]}
    assert counted["two levels, one host"] == pytest.approx(counted["flat"] / 2, rel=0.05)
