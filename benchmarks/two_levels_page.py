"""The table and the picture of `why_two_levels`, and the file of its numbers."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from html import escape
from typing import Any

NAME = "why_two_levels"
_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"
_KEY = ("work", "hosts", "inside", "variant", "megabits")
_COLOURS = ("#d1864b", "#8ab4d4", "#1b6ca8")
_WIDTH, _LEFT, _BARS, _ROW = 860, 250, 460, 16


def add(folder: pathlib.Path, rows: Sequence[dict[str, Any]], run: dict[str, Any]) -> None:
    """Adds rows to those that are in a folder, and writes its table and picture anew."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{NAME}.json"
    found = json.loads(file.read_text()) if file.exists() else {"runs": [], "rows": []}
    by_key = {tuple(row[key] for key in _KEY): row for row in [*found["rows"], *rows]}
    all_rows = list(by_key.values())
    runs = list({each["command"]: each for each in [*found["runs"], run]}.values())
    file.write_text(json.dumps({"runs": runs, "rows": all_rows}, indent=1) + "\n")
    (folder / f"{NAME}.svg").write_text(picture(all_rows))
    page = folder / f"{NAME}.md"
    before, after = "", ""
    if page.exists():
        before, _, rest = page.read_text().partition(_BEGIN)
        after = rest.partition(_END)[2]
    lines = [*map(_where, runs), "", *table(all_rows)]
    page.write_text("\n".join([before + _BEGIN, *lines, _END + (after or "\n")]))


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a table for each kind of work: bytes, and seconds at each rate with the prediction.

    The prediction of a rate is the seconds without a limit, and the time that the bytes by the
    lowering's counters need on the link of a host.
    """
    lines: list[str] = []
    for work in dict.fromkeys(row["work"] for row in rows):
        own = [row for row in rows if row["work"] == work]
        rates = list(dict.fromkeys(row["megabits"] for row in own))
        heads = ["hosts x processes", "mixture", "messages", "MB: arithmetic", "counters"]
        heads += ["counted", *[_rate(rate) for rate in rates]]
        lines += [f"### {work}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for place in dict.fromkeys((row["hosts"], row["inside"]) for row in own):
            for variant in dict.fromkeys(row["variant"] for row in own):
                group = [
                    row
                    for row in own
                    if (row["hosts"], row["inside"]) == place and row["variant"] == variant
                ]
                if group:
                    lines.append(_line(group, rates))
        lines.append("")
    return lines


def predicted(row: dict[str, Any], unlimited: float) -> float:
    """Returns the seconds of a step at the rate of a row, from those without a limit.

    Hosts send at the same time, each its share; nothing is taken to overlap with computing.
    """
    if not row["megabits"]:
        return unlimited
    return unlimited + 8 * row["by counters"] / row["hosts"] / (row["megabits"] * 1e6)


def _line(group: Sequence[dict[str, Any]], rates: Sequence[int]) -> str:
    first = group[0]
    by_rate = {row["megabits"]: row for row in group}
    unlimited = by_rate.get(0)
    arithmetic = first["by arithmetic"]
    cells = [
        f"{first['hosts']} x {first['inside']}",
        first["variant"],
        str(first["messages"]),
        "" if arithmetic is None else f"{arithmetic / 1e6:.2f}",
        f"{first['by counters'] / 1e6:.2f}",
        f"{first['counted'] / 1e6:.2f}",
    ]
    for rate in rates:
        row = by_rate.get(rate)
        text = "" if row is None else f"{row['seconds']:.3f}"
        if row is not None and rate and unlimited is not None:
            text += f" ({predicted(row, unlimited['seconds']):.3f})"
        cells.append(text)
    return f"| {' | '.join(cells)} |"


def picture(rows: Sequence[dict[str, Any]]) -> str:
    """Returns an SVG with a bar for each row, those of one work, place and rate side by side."""
    parts: list[str] = []
    y = 24
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for work in dict.fromkeys(row["work"] for row in rows):
        parts.append(_text(12, y, f"{work}: seconds a step", weight="bold"))
        own = [row for row in rows if row["work"] == work]
        for hosts, inside, rate in dict.fromkeys(
            (row["hosts"], row["inside"], row["megabits"]) for row in own
        ):
            group = [
                row
                for row in own
                if (row["hosts"], row["inside"], row["megabits"]) == (hosts, inside, rate)
            ]
            longest = max(row["seconds"] for row in group)
            y += 6
            parts.append(_text(12, y + _ROW, f"{hosts} x {inside}, {_rate(rate)}"))
            for row in group:
                y += _ROW
                width = _BARS * row["seconds"] / longest
                colour = _COLOURS[variants.index(row["variant"]) % len(_COLOURS)]
                parts.append(
                    f'<rect x="{_LEFT}" y="{y - 11}" width="{width:.1f}" height="13"'
                    f' fill="{colour}"/>'
                )
                parts.append(_text(_LEFT + width + 6, y, f"{row['seconds']:.3f} {row['variant']}"))
        y += 34
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + 120} {y}"'
            f' width="{_WIDTH + 120}" height="{y}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH + 120}" height="{y}" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _where(run: dict[str, Any]) -> str:
    return (
        f"- {run['date']}, {run['processor']}, {run['memory_gb']:.0f} GB, {run['platform']}; commit"
        f" {run['commit']}; medians of {run['turns']} steps; `{run['command']}`"
    )


def _rate(megabits: int) -> str:
    return f"{megabits} Mbit/s" if megabits else "no limit"


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}" fill="#333333">{escape(text)}</text>'
