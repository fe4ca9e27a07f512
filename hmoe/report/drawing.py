"""How pictures of a report look, and how they become SVG and PNG.

matplotlib is used by its objects alone: there is no window, and nothing is kept between pictures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hmoe.report.content import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colors that people with any color vision tell apart (Okabe and Ito), the darker ones first.
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#b0a000",
    "#7f7f7f",
)
INK, PAPER, GRID = "#24292f", "#ffffff", "#d0d7de"
_DARK = {INK: "#e6edf3", PAPER: "#0d1117", GRID: "#30363d"}
_LONGEST_NAME = 40
_DOTS = 150  # dots of an inch in a PNG
_CSS_PIXELS = 96  # of an inch
_MADE_BY = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
# The course of a line or an area, and the digits of its numbers beyond hundredths of a point.
_COURSE, _DIGITS = re.compile(r' d="[^"]*"'), re.compile(r"(\.\d\d)\d+")


def figure(width: float = 5.2, height: float = 3.0) -> tuple[Figure, Axes]:
    """Returns an empty figure of so many inches with one pair of axes."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    axes = made.add_subplot()
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return made, axes


def colors(count: int) -> list[str]:
    """Returns so many colors to tell lines apart: distinct ones, or a scale if there are many."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["viridis"]
    return [to_hex(scale(0.9 * number / (count - 1))) for number in range(count)]


def name(text: str) -> str:
    """Returns a name as pictures write it: not too long, with nothing that matplotlib reads."""
    half = _LONGEST_NAME // 2
    shown = text if len(text) <= _LONGEST_NAME else f"{text[: half - 1]}\u2026{text[-half:]}"
    # A dollar would begin a formula, and a name that begins with "_" is left out of legends.
    shown = shown.replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def legend(axes: Axes, names: Sequence[str]) -> None:
    """Adds a legend below the axes, of the lines that have labels."""
    if not names:
        return
    columns = 2 if max(map(len, names)) <= 34 else 1
    found = axes.figure.legend(
        loc="outside lower left", ncols=columns, fontsize=8, frameon=False, labelcolor=INK
    )
    found.set_in_layout(True)


def picture(made: Figure, name: str, title: str, alt: str) -> Picture:
    """Returns a figure as a picture of a page, which follows its light or dark."""
    import matplotlib

    svg, png = io.StringIO(), io.BytesIO()
    # Text in an SVG stays text, to be searched, and equal pictures are equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        made.savefig(svg, format="svg", dpi=_DOTS, metadata={"Date": None})
        made.savefig(png, format="png", dpi=_DOTS, metadata={"Software": None})
    width = round(made.get_figwidth() * _CSS_PIXELS)
    return Picture(name, title, alt, _following_theme(svg.getvalue()), png.getvalue(), width)


def _following_theme(svg: str) -> str:
    """Returns an SVG whose ink, paper and grid change where dark pages are preferred."""
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    svg = _COURSE.sub(lambda found: _DIGITS.sub(r"\1", found[0]), _MADE_BY.sub("", svg))
    # The page's own fonts: what matplotlib measured with is not on every machine.
    svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    return svg.replace("<defs>", f"{style}<defs>", 1)
