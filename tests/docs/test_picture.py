"""The picture of a token's path: as the script draws it, and readable."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest

from tools import token_path_picture

SVG = "{http://www.w3.org/2000/svg}"
SCHEMES = {"light": token_path_picture.LIGHT, "dark": token_path_picture.DARK}


def texts():
    return ElementTree.fromstring(token_path_picture.picture()).findall(f".//{SVG}text")


def box(text):
    """Left, top, right and bottom of a text, a little wider than usual fonts make it."""
    size, x, y = (float(text.get(name)) for name in ("font-size", "x", "y"))
    width = 0.6 * size * len(text.text)
    left = x - width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
    return left, y - size, left + width, y + 0.3 * size


def test_file_is_what_the_script_draws():
    assert token_path_picture.PICTURE.read_text(encoding="utf-8") == token_path_picture.picture(), (
        "docs/token_path.svg is not what the script draws; run `python -m tools.token_path_picture`"
    )


def test_text_is_large_enough_and_inside():
    for text in texts():
        left, top, right, bottom = box(text)
        assert float(text.get("font-size")) >= 12, text.text
        assert left >= 0, text.text
        assert top >= 0, text.text
        assert right <= token_path_picture.WIDTH, text.text
        assert bottom <= token_path_picture.HEIGHT, text.text


def test_no_text_overlaps_another():
    for one, other in itertools.combinations(texts(), 2):
        (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = box(one), box(other)
        apart = right <= left_2 or right_2 <= left or bottom <= top_2 or bottom_2 <= top
        assert apart, (one.text, other.text)


def luminance(colour):
    """As WCAG 2 defines it for a colour such as "#0860c4"."""
    values = [int(part, 16) / 255 for part in re.findall("..", colour[1:])]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_colours_of_text_stand_out(scheme):
    """By 4.5 to 1, which WCAG 2 asks of text of this size; on every ground of the picture."""
    colours = SCHEMES[scheme]
    for text in ("text", "quiet", "outer", "inner"):
        for ground in ("page", "host", "chip"):
            low, high = sorted(luminance(colours[name]) for name in (text, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_schemes_set_the_same_colours():
    style = ElementTree.fromstring(token_path_picture.picture()).find(f"{SVG}style").text
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    selectors = re.findall(r"(\.[\w-]+) \{ (?:fill|stroke): #", dark)
    assert selectors == re.findall(r"(\.[\w-]+) \{ (?:fill|stroke): #", light)
    assert len(selectors) == 11
