"""Pictures of a plan: the files, and the words in them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from hmoe.plan import pictures
from hmoe.plan.costs import Memory
from hmoe.plan.pictures import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEMORY = Memory(3_400_000_000, 1_700_000_000, 20_000_000, 9_100_000_000)
ONE = [Point(4, 3e6, 3e-3), Point(16, 12e6, 12e-3), Point(64, 48e6, 48e-3)]
TWO = [Point(4, 6e6, 7e-3), Point(16, 12e6, 13e-3), Point(64, 24e6, 25e-3)]


def words_of(figure: Figure, folder: Path) -> list[str]:
    """Saves a picture, checks the files, and returns the texts of the SVG."""
    svg, png = pictures.save(figure, str(folder), "a_picture")
    assert [svg, png] == [str(folder / "a_picture.svg"), str(folder / "a_picture.png")]
    header = Path(png).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20], "big") == 800  # dots wide
    root = ElementTree.parse(svg).getroot()
    return ["".join(each.itertext()).strip() for each in root.iter() if each.tag.endswith("}text")]


def test_memory(tmp_path: Path) -> None:
    words = words_of(pictures.memory_by_part(MEMORY, 17_179_869_184, "TPU v3"), tmp_path)
    text = " ".join(" ".join(words).split())
    for part in (
        "Memory of a device",
        "parameters 3.40 GB",
        "gradients 1.70 GB",
        "optimizer 20.0 MB",
        "activations, at most 9.10 GB",
        "all 14.2 GB",
        "TPU v3 has 17.2 GB",
        "bytes on one device",
        "4 GB",
    ):
        assert part in text, part


def test_each_part_starts_where_the_last_one_ends() -> None:
    (axes,) = pictures.memory_by_part(MEMORY).axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [
        (0, 3_400_000_000),
        (3_400_000_000, 1_700_000_000),
        (5_100_000_000, 20_000_000),
        (5_120_000_000, 9_100_000_000),
        (0, 14_220_000_000),
    ]
    assert not axes.lines


@pytest.mark.parametrize(("limit", "lines"), [(9_000_000_000, 1), (120_000_000_000, 0)])
def test_a_limit_that_is_far_away_does_not_shrink_the_bars(limit: int, lines: int) -> None:
    (axes,) = pictures.memory_by_part(MEMORY, limit, "it").axes
    assert [line.get_xdata()[0] for line in axes.lines] == [limit] * lines
    assert axes.get_xlim()[1] == pytest.approx(14_220_000_000 * 1.06)
    assert [text.get_text() for text in axes.texts] == [
        "it has 9.00 GB" if lines else "it has 120 GB \u2192"
    ]


def test_time(tmp_path: Path) -> None:
    seconds = {"router": 0.002, "experts": 0.03, "nothing": 0.0, "exchanges over rows": 0.008}
    words = words_of(pictures.time_of_step(seconds), tmp_path)
    names = [each for each in words if each in seconds]
    assert names == ["experts", "exchanges over rows", "router"]
    for label in ("30.0 ms, 75%", "8.00 ms, 20%", "2.00 ms, 5%", "16 ms"):
        assert label in words
    assert "modelled time of one device in a step" in words


def test_no_time() -> None:
    with pytest.raises(ValueError) as error:
        pictures.time_of_step({"experts": 0.0})
    assert str(error.value) == ("a picture of the time of a step needs something that takes time")


def test_slow_axis(tmp_path: Path) -> None:
    words = words_of(pictures.slow_axis(ONE, TWO), tmp_path)
    assert words.count("one level") == words.count("two levels") == 2
    for label in ("bytes that a device sends", "modelled time in a step", "devices of the mesh"):
        assert label in words
    for tick in ("4", "16", "64", "10 MB", "10 ms"):
        assert tick in words
    # Bytes meet at a point; seconds between 16 and 64: log(13 / 12) of log(13 / 12 * 48 / 25).
    assert [each for each in words if each.startswith("equal")] == [
        "equal at 16 devices",
        "equal at 19 devices",
    ]


def test_slow_axis_without_a_crossing(tmp_path: Path) -> None:
    words = words_of(pictures.slow_axis(ONE, [Point(1, 0, 0), Point(64, 1e6, 1e-3)]), tmp_path)
    assert not [each for each in words if each.startswith("equal")]


def test_nothing_over_the_slow_axis() -> None:
    with pytest.raises(ValueError) as error:
        pictures.slow_axis([Point(1, 0, 0)], [Point(1, 0, 0)])
    assert str(error.value) == ("a picture of the slow axis needs something that is sent over it")


@pytest.mark.parametrize(
    ("one", "two", "found"),
    [
        # In between: 2 ** x against 4 / 2 ** x meet at x = 1.
        ({1: 1.0, 4: 4.0}, {1: 4.0, 4: 1.0}, (2.0, 2.0)),
        # At a point.
        ({1: 1.0, 8: 2.0, 16: 3.0}, {1: 4.0, 8: 2.0, 16: 1.0}, (8.0, 2.0)),
        # They touch and part again.
        ({1: 1.0, 8: 2.0, 16: 1.0}, {1: 4.0, 8: 2.0, 16: 3.0}, None),
        # Equal at first only.
        ({1: 5.0, 8: 2.0}, {1: 5.0, 8: 3.0}, None),
        # The last of two: only numbers that both have.
        ({1: 1.0, 2: 9.0, 3: 7.0, 8: 1.0}, {1: 2.0, 2: 1.0, 8: 9.0}, (4.0, 3.0)),
        ({1: 1.0}, {2: 1.0}, None),
    ],
)
def test_crossing(
    one: dict[int, float], two: dict[int, float], found: tuple[float, float] | None
) -> None:
    assert pictures.crossing(one, two) == (found if found is None else pytest.approx(found))


def test_names_of_curves_that_end_together_stand_apart() -> None:
    figure = pictures.slow_axis([Point(2, 10, 1), Point(4, 20, 2)], [Point(4, 20, 2)])
    figure.canvas.draw()
    for axes in figure.axes:
        one, two = (
            text.get_window_extent()
            for text in axes.texts
            if re.fullmatch("one level|two levels", text.get_text())
        )
        assert not one.overlaps(two)


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        pictures.save(pictures.time_of_step({"experts": 0.5}), str(tmp_path), name)
    first, second = ((tmp_path / f"{name}.svg").read_bytes() for name in ("first", "second"))
    assert first == second


def test_imports_matplotlib_only_to_draw() -> None:
    code = (
        "import sys; from hmoe.plan import pictures; print('matplotlib' in sys.modules); "
        "pictures.time_of_step({'a': 1.0}); "
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True", "False"]
