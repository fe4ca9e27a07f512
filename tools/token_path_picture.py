"""Draws the path of a token through two levels of experts: docs/token_path.svg.

Run it from the repository's root as `python -m tools.token_path_picture`. A test compares the file
with what this script draws.

The mesh in the picture has two hosts of four chips. Every host holds the experts of one group, and
every chip holds one of them. A token of chip 1 on host 0 chooses expert 3 of group 1.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from html import escape

PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "token_path.svg"

# Colours by role. The picture brings its own background, because a page can be dark while the
# viewer's colour scheme is light, and the other way round.
LIGHT = {
    "page": "#ffffff",
    "host": "#f3f5f8",
    "chip": "#ffffff",
    "edge": "#8a94a0",
    "text": "#1f2328",
    "quiet": "#57606a",
    "outer": "#b34700",
    "inner": "#0860c4",
}
DARK = {
    "page": "#0d1117",
    "host": "#171d25",
    "chip": "#232a34",
    "edge": "#6e7884",
    "text": "#e9eef4",
    "quiet": "#a9b3bf",
    "outer": "#ffa657",
    "inner": "#79c0ff",
}

WIDTH, HEIGHT = 880, 560
HOSTS, CHIPS = 2, 4
SMALL, NORMAL = 13, 14  # pixels of text
_CHIP_WIDTH, _CHIP_HEIGHT, _PITCH, _LEFT = 164, 76, 209, 44
_HOST_TOP = (20, 300)
_HOST_HEIGHT = 182
_CHIP_TOP = (108, 316)  # the slow links run in between
_LANE = 13  # pixels from the centre of a chip to the way there, and to the way back

_START, _END = (0, 1), (1, 3)  # (host, chip) of the token and of its expert

_DESCRIPTION = (
    "Two hosts of four chips each. First the outer exchange carries a token over the slow link"
    " between the hosts, from chip 1 of host 0 to chip 1 of host 1. Then the inner exchange carries"
    " it over the fast links inside host 1 to chip 3, which holds its expert. The output returns"
    " the same way."
)


def picture() -> str:
    """Returns the picture as the text of an SVG file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}" role="img" aria-labelledby="title description">',
        '<title id="title">The path of a token through two levels of experts</title>',
        f'<desc id="description">{escape(_DESCRIPTION)}</desc>',
        _style(),
        _arrow_heads(),
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
    ]
    for host in range(HOSTS):
        parts += _host(host)
    parts += [_slow_link(chip) for chip in range(CHIPS) if chip != _START[1]]
    parts += _path_of_the_token()
    parts += _legend()
    return "\n".join([*parts, "</svg>", ""])


def _style() -> str:
    return "\n".join(
        [
            "<style>",
            "text { font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }",
            ".way, .fast, .slow { fill: none; stroke-linejoin: round; }",
            ".way { stroke-width: 3; }",
            ".back { stroke-dasharray: 7 5; }",
            ".fast { stroke-width: 8; stroke-linecap: round; opacity: 0.3; }",
            ".slow { stroke-width: 2; stroke-dasharray: 2 5; }",
            _rules(LIGHT),
            "@media (prefers-color-scheme: dark) {",
            _rules(DARK),
            "}",
            "</style>",
        ]
    )


def _rules(colours: Mapping[str, str]) -> str:
    """Returns the CSS rules that depend on the colour scheme."""
    return "\n".join(
        [
            f".page {{ fill: {colours['page']}; stroke: {colours['edge']}; }}",
            f".host {{ fill: {colours['host']}; stroke: {colours['edge']}; }}",
            f".chip {{ fill: {colours['chip']}; stroke: {colours['edge']}; }}",
            f".chosen {{ stroke: {colours['inner']}; stroke-width: 3; }}",
            f".text {{ fill: {colours['text']}; }}",
            f".quiet {{ fill: {colours['quiet']}; }}",
            f".number {{ fill: {colours['page']}; font-weight: bold; }}",
            *(
                f".{kind}-{level} {{ {kind}: {colours[level]}; }}"
                for level in ("outer", "inner")
                for kind in ("stroke", "fill")
            ),
        ]
    )


def _arrow_heads() -> str:
    heads = [
        f'<marker id="{level}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="5"'
        ' markerHeight="5" orient="auto">'
        f'<path class="fill-{level}" d="M0 0 L10 5 L0 10 z"/></marker>'
        for level in ("outer", "inner")
    ]
    return "\n".join(["<defs>", *heads, "</defs>"])


def _host(host: int) -> list[str]:
    top = _HOST_TOP[host]
    links = f"M{_centre(0)} {_links_y(host)} H{_centre(CHIPS - 1)}" + "".join(
        f" M{_centre(chip)} {_links_y(host)} V{_chip_edge(host, inside=True)}"
        for chip in range(CHIPS)
    )
    name_y = top + 26 if host == 0 else top + _HOST_HEIGHT - 13
    parts = [
        f'<rect class="host" x="20" y="{top}" width="{WIDTH - 40}" height="{_HOST_HEIGHT}"'
        ' rx="10"/>',
        _text(_LEFT, name_y, f"Host {host}: the experts of group {host}", weight="bold"),
        f'<path class="fast stroke-inner" d="{links}"/>',
    ]
    for chip in range(CHIPS):
        parts += _chip(host, chip)
    return parts


def _chip(host: int, chip: int) -> list[str]:
    left, top, centre = _LEFT + chip * _PITCH, _CHIP_TOP[host], _centre(chip)
    chosen = " chosen" if (host, chip) == _END else ""
    parts = [
        f'<rect class="chip{chosen}" x="{left}" y="{top}" width="{_CHIP_WIDTH}"'
        f' height="{_CHIP_HEIGHT}" rx="8"/>',
        _text(centre, top + 24, f"Chip {chip}", "middle", "quiet", SMALL),
        _text(centre, top + 44, f"expert {chip} of group {host}", "middle"),
    ]
    if (host, chip) == _START:
        parts.append(_text(centre, top + 64, "a token starts here", "middle", "fill-outer", SMALL))
    if (host, chip) == _END:
        parts.append(_text(centre, top + 64, "its expert", "middle", "fill-inner", SMALL))
    return parts


def _slow_link(chip: int) -> str:
    top, bottom = (_chip_edge(host, inside=False) for host in range(HOSTS))
    return f'<path class="slow stroke-outer" d="M{_centre(chip)} {top} V{bottom}"/>'


def _path_of_the_token() -> list[str]:
    """Draws the two exchanges, the way back, and what happens on each."""
    here, there = _centre(_START[1]), _centre(_END[1])
    top, bottom = (_chip_edge(host, inside=False) for host in range(HOSTS))
    below, lane = _chip_edge(1, inside=True), _links_y(1)
    middle = (top + bottom) // 2
    return [
        _way("outer", f"M{here - _LANE} {top} V{bottom - 2}"),
        _way("outer", f"M{here + _LANE} {bottom} V{top + 2}", back=True),
        _way(
            "inner",
            f"M{here + _LANE} {below} V{lane - 9} H{there - _LANE} V{below + 2}",
        ),
        _way(
            "inner",
            f"M{there + _LANE} {below} V{lane + 9} H{here - _LANE} V{below + 2}",
            back=True,
        ),
        *_numbered(1, here - _LANE, middle, "outer"),
        _text(here - _LANE - 20, middle - 3, "outer exchange: to the", "end"),
        _text(here - _LANE - 20, middle + 16, "host of its group", "end"),
        *_numbered(2, (here + there) // 2, lane - 9, "inner"),
        _text(
            (here + there) // 2, lane + 43, "inner exchange: to the chip of its expert", "middle"
        ),
        *_numbered(3, there - _PITCH // 2, lane + 9, "inner"),
        *_numbered(3, here + _LANE, middle, "outer"),
        _text(here + _LANE + 20, middle - 3, "back the same way,"),
        _text(here + _LANE + 20, middle + 16, "weighted and summed"),
    ]


def _way(level: str, path: str, back: bool = False) -> str:
    dashes = " back" if back else ""
    return f'<path class="way{dashes} stroke-{level}" d="{path}" marker-end="url(#{level})"/>'


def _numbered(number: int, x: int, y: int, level: str) -> list[str]:
    return [
        f'<circle class="fill-{level}" cx="{x}" cy="{y}" r="12"/>',
        _text(x, y + 5, str(number), "middle", "number"),
    ]


def _legend() -> list[str]:
    y = HEIGHT - 42
    return [
        f'<path class="slow stroke-outer" d="M{_LEFT} {y - 5} H{_LEFT + 44}"/>',
        _text(_LEFT + 56, y, "Slow links: mesh axis hosts, which splits batch and expert_x."),
        f'<path class="fast stroke-inner" d="M{_LEFT + 4} {y + 19} H{_LEFT + 40}"/>',
        _text(
            _LEFT + 56,
            y + 24,
            "Fast links: mesh axis chips, which splits outer_batch and expert_y.",
        ),
    ]


def _centre(chip: int) -> int:
    return _LEFT + chip * _PITCH + _CHIP_WIDTH // 2


def _chip_edge(host: int, *, inside: bool) -> int:
    """Returns where chips meet the fast links of their host (inside) or the slow links."""
    at_top = (host == 0) == inside
    return _CHIP_TOP[host] + (0 if at_top else _CHIP_HEIGHT)


def _links_y(host: int) -> int:
    return _chip_edge(host, inside=True) + (-26 if host == 0 else 34)


def _text(
    x: int,
    y: int,
    text: str,
    anchor: str = "start",
    role: str = "text",
    size: int = NORMAL,
    weight: str = "normal",
) -> str:
    return (
        f'<text class="{role}" x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}"'
        f' font-weight="{weight}">{escape(text)}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
