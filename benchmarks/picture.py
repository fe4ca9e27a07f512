"""The times of all cases as bars, in an SVG."""

from __future__ import annotations

from html import escape
from typing import Any

_WIDTH, _LEFT, _BARS, _ROW = 860, 210, 480, 18
_COLOURS = (("hmoe", "#1b6ca8"), ("bare", "#888888"), ("dense", "#888888"), ("", "#d1864b"))


def picture(results: dict[str, Any]) -> str:
    """A bar a side, as long as its median within its case, with a line over the quartiles."""
    parts: list[str] = []
    y = 24
    for name, result in results.items():
        timed = {name: side for name, side in result["sides"].items() if "seconds" in side}
        if not timed:
            continue
        parts.append(_text(12, y, name, weight="bold"))
        longest = max(side["seconds"]["quartiles"][1] for side in timed.values())
        for label, side in timed.items():
            y += _ROW
            parts += _bar(label, side, y, _BARS / longest)
        y += 30
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}"'
            f' height="{y}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{y}" fill="white"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(label: str, side: dict[str, Any], y: float, scale: float) -> list[str]:
    colour = next(colour for start, colour in _COLOURS if label.startswith(start))
    median = side["seconds"]["median"]
    low, high = side["seconds"]["quartiles"]
    said = f"{median:.3g} s"
    if "efficiency" in side:
        said += f", {100 * side['efficiency']:.0f} % of peak"
    return [
        _text(_LEFT - 8, y, label, "end"),
        f'<rect x="{_LEFT}" y="{y - 11}" width="{median * scale:.1f}" height="14"'
        f' fill="{colour}"/>',
        f'<line x1="{_LEFT + low * scale:.1f}" x2="{_LEFT + high * scale:.1f}" y1="{y - 4}"'
        f' y2="{y - 4}" stroke="black"/>',
        _text(_LEFT + max(median, high) * scale + 6, y, said),
    ]


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}"'
        f' fill="#333333">{escape(text)}</text>'
    )
