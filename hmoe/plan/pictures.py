"""Pictures of a plan: memory by part, the time of a step, and bytes over the slow axis.

matplotlib is imported only where something is drawn, since it takes a second, and is used by its
objects alone: there is no window, and nothing is kept between pictures.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from hmoe.plan import report
from hmoe.plan.costs import Memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Writes a number with its unit.
Written = Callable[[float], str]

_WIDTH, _DOTS = 8.0, 100  # inches, and dots of an inch: 800 dots
_BLUE, _ORANGE, _GREY, _RED = "#2f6fab", "#d1731f", "#8a8f98", "#b3261e"
_INK = "#24292f"
# Ends of two curves that are nearer than this share of the axis have their labels moved apart.
_LABEL_HEIGHT = 0.085
# A limit above this many times what is drawn is not drawn to scale.
_FAR = 8


class Point(NamedTuple):
    """What one device sends over the slow axis in a step, on a mesh of some size.

    Attributes:
      devices: devices of the mesh.
      size: bytes.
      seconds: modelled time of sending them.
    """

    devices: int
    size: float
    seconds: float


def save(figure: Figure, folder: str, name: str) -> tuple[str, str]:
    """Writes a picture to `name.svg` and `name.png` in a folder that exists; returns the paths."""
    import matplotlib

    svg, png = (os.path.join(folder, f"{name}.{kind}") for kind in ("svg", "png"))
    # Text in an SVG stays text, to be searched and read aloud, and equal pictures are equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hmoe"}):
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=_DOTS)
    return svg, png


def memory_by_part(memory: Memory, limit: float | None = None, limit_name: str = "") -> Figure:
    """Draws the memory of a device, each part from where the one above it ends.

    Args:
      memory: the bytes of a device.
      limit: bytes that a device has; None to leave the line out.
      limit_name: what has them, such as "TPU v3".
    """
    parts = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations, at most": memory.activations,
    }
    # Numbers stand with the names, where no bar and no limit crosses them.
    names = [f"{name}\n{report.size(number)}" for name, number in parts.items()]
    figure, axes = _bars([*names, f"all\n{report.size(memory.total)}"], "Memory of a device")
    start = 0
    for row, number in enumerate(parts.values()):
        _bar(axes, row, number, start)
        start += number
    _bar(axes, len(parts), memory.total, color=_INK)
    highest: float = max(memory.total, 1)
    if limit is not None:
        axes.set_ylim(len(parts) + 0.5, -0.95)
        _limit(axes, limit, f"{limit_name} has {report.size(limit)}".strip(), highest)
        highest = max(highest, limit if limit <= _FAR * highest else 0)
    _scale(axes, highest * 1.06, report.size, "bytes on one device")
    return figure


def time_of_step(seconds: Mapping[str, float]) -> Figure:
    """Draws where the time of a step goes, the longest first.

    Args:
      seconds: modelled seconds by what they are spent on; what takes none is left out.

    Raises:
      ValueError: nothing takes time.
    """
    spent = sorted(
        ((name, number) for name, number in seconds.items() if number > 0),
        key=lambda item: -item[1],
    )
    if not spent:
        raise ValueError("a picture of the time of a step needs something that takes time")
    total = sum(number for _, number in spent)
    figure, axes = _bars([name for name, _ in spent], "Where the modelled time of a step goes")
    highest = spent[0][1]
    for row, (_, number) in enumerate(spent):
        _bar(axes, row, number)
        _beside(axes, number, row, f"{report.seconds(number)}, {number / total:.0%}", highest)
    _scale(axes, highest * 1.27, report.seconds, "modelled time of one device in a step")
    return figure


def slow_axis(one_level: Sequence[Point], two_levels: Sequence[Point]) -> Figure:
    """Draws bytes and seconds over the slow axis against the number of devices.

    Where the curves cross, the last crossing is marked. Numbers of devices of which one of the two
    has no point, or nothing is sent, are left out of the search for it.

    Args:
      one_level: all experts behind one router, in any order.
      two_levels: as many experts behind two.

    Raises:
      ValueError: nothing is sent.
    """
    figure = _figure(7.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.set_title(
        "Over the slow axis, at equal experts", loc="left", fontweight="bold", color=_INK
    )
    _curves(
        upper, [_sizes(one_level), _sizes(two_levels)], report.size, "bytes that a device sends"
    )
    times = [_times(one_level), _times(two_levels)]
    _curves(lower, times, report.seconds, "modelled time in a step")
    figure.align_ylabels()
    _device_ticks(lower, sorted({point.devices for point in (*one_level, *two_levels)}))
    return figure


def crossing(one: Mapping[int, float], two: Mapping[int, float]) -> tuple[float, float] | None:
    """Returns where two curves cross last, as (devices, value); None if they do not.

    Between points, both are straight lines on logarithmic scales.

    Args:
      one: positive values by number of devices.
      two: the same of the other curve.
    """
    devices = sorted(set(one) & set(two))
    gaps = [math.log(one[number] / two[number]) for number in devices]
    differ = [index for index, gap in enumerate(gaps) if gap]
    for before, after in reversed(list(zip(differ, differ[1:]))):
        if gaps[before] * gaps[after] > 0:
            continue
        if after - before > 1:  # they meet at a point
            return float(devices[before + 1]), one[devices[before + 1]]
        share = gaps[before] / (gaps[before] - gaps[after])
        first, second = devices[before], devices[after]
        return _between(first, second, share), _between(one[first], one[second], share)
    return None


def _between(first: float, second: float, share: float) -> float:
    return float(first ** (1 - share) * second**share)


def _sizes(points: Sequence[Point]) -> dict[int, float]:
    return {point.devices: point.size for point in sorted(points) if point.size > 0}


def _times(points: Sequence[Point]) -> dict[int, float]:
    return {point.devices: point.seconds for point in sorted(points) if point.seconds > 0}


def _figure(height: float) -> Figure:
    """Returns an empty figure with a light background, of a height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=_DOTS, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bars(names: Sequence[str], title: str) -> tuple[Figure, Axes]:
    """Returns a figure and its axes with a named row for each bar, the first on top."""
    figure = _figure(1.5 + 0.5 * len(names))
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold", color=_INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelsize=11)
    _plain(axes, grid="x")
    return figure, axes


def _plain(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    """Leaves only what is read: two sides of the frame, and pale lines across."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
    axes.tick_params(colors=_INK)
    axes.grid(axis=grid, color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)


def _bar(axes: Axes, row: int, length: float, start: float = 0, color: str = _BLUE) -> None:
    """Draws a bar, with an edge by which a short one is seen."""
    axes.barh(
        row, length, left=start, height=0.62, color=color, edgecolor=color, linewidth=1.0, zorder=2
    )


def _limit(axes: Axes, limit: float, words: str, highest: float) -> None:
    """Draws a line at a limit and names it in the strip above the bars.

    A limit so far away that bars could not be seen beside it has words alone.
    """
    if limit > _FAR * highest:
        axes.text(
            1.0,
            -0.62,
            f"{words} \u2192",
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            color=_RED,
        )
        return
    axes.axvline(limit, color=_RED, linewidth=1.6, zorder=3)
    is_right = limit > highest / 2
    axes.annotate(
        words,
        (limit, -0.62),
        xytext=(-6 if is_right else 6, 0),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="center",
        color=_RED,
    )


def _beside(axes: Axes, end: float, row: int, words: str, highest: float) -> None:
    """Writes words to the right of a bar's end, over whatever line crosses there."""
    axes.text(
        end + highest * 0.012,
        row,
        words,
        va="center",
        color=_INK,
        fontsize=11,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        zorder=3,
    )


def _scale(axes: Axes, highest: float, written: Written, label: str) -> None:
    """Scales the horizontal axis to a highest value."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, highest)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: _short(written, value))
    axes.set_xlabel(label, color=_INK)


def _short(written: Written, value: float) -> str:
    """Writes a round number at a line of the grid: 4 GB and not 4.00 GB."""
    number, unit = written(value).split(" ")
    return f"{float(number):g} {unit}" if value else "0"


def _round_numbers(lowest: float, highest: float) -> list[float]:
    """Returns values in between for lines of a logarithmic grid: 1, 2 and 5, or tens alone."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    steps = (1, 2, 5) if highest / lowest < 1000 else (1,)
    found = [step * 10.0**power for power in powers for step in steps]
    return [value for value in found if lowest <= value <= highest]


def _curves(
    axes: Axes, curves: Sequence[Mapping[int, float]], written: Written, label: str
) -> None:
    """Draws two curves on logarithmic scales, each named at its end, and where they cross."""
    values = [value for curve in curves for value in curve.values()]
    if not values:
        raise ValueError("a picture of the slow axis needs something that is sent over it")
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.6, max(values) * 1.6)
    values = _round_numbers(*axes.get_ylim())
    axes.set_yticks(values, [_short(written, value) for value in values])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(label, color=_INK)
    _plain(axes, grid="both")
    named = list(zip(("one level", "two levels"), (_ORANGE, _BLUE), curves))
    for _, color, curve in named:
        axes.plot(list(curve), list(curve.values()), color=color, marker="o", linewidth=2)
    _name_ends(axes, [each for each in named if each[2]])
    found = crossing(*curves)
    if found is not None:
        _mark(axes, *found)


def _name_ends(axes: Axes, named: Sequence[tuple[str, str, Mapping[int, float]]]) -> None:
    """Writes the names of curves at their right ends, apart from each other."""
    lowest, highest = axes.get_ylim()
    ends = [max(curve) for _, _, curve in named]
    heights = [
        math.log(curve[end] / lowest) / math.log(highest / lowest)
        for end, (_, _, curve) in zip(ends, named)
    ]
    if len(named) == 2 and abs(heights[0] - heights[1]) < _LABEL_HEIGHT:
        middle = sum(heights) / 2
        up = 0 if heights[0] >= heights[1] else 1
        heights[up], heights[1 - up] = middle + _LABEL_HEIGHT / 2, middle - _LABEL_HEIGHT / 2
    for (name, color, _), height in zip(named, heights):
        axes.annotate(
            name,
            (1, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=11,
            fontweight="bold",
            annotation_clip=False,
        )


def _mark(axes: Axes, devices: float, value: float) -> None:
    """Marks the point where the curves cross."""
    axes.plot([devices], [value], marker="o", markersize=12, color=_INK, fillstyle="none")
    axes.axvline(devices, color=_GREY, linewidth=1, linestyle=":")
    lowest, highest = axes.get_ylim()
    left, right = axes.get_xlim()
    is_high, is_right = value > math.sqrt(lowest * highest), devices > math.sqrt(left * right)
    axes.annotate(
        f"equal at {devices:,.0f} devices",
        (devices, lowest if is_high else highest),
        xytext=(-6 if is_right else 6, 12 if is_high else -12),
        textcoords="offset points",
        ha="right" if is_right else "left",
        va="center",
        color=_INK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )


def _device_ticks(axes: Axes, devices: Sequence[int]) -> None:
    """Labels the numbers of devices that there are points of."""
    from matplotlib.ticker import NullLocator

    axes.set_xticks(devices, [f"{number:,}" for number in devices])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("devices of the mesh", color=_INK)
