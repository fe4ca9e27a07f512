"""The pages that users read, and what their Markdown refers to."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
# A path of this repository that is named in the text, such as `hmoe/layer/groups.py`.
_PATH = re.compile(r"^\.?(?:hmoe|tests|tools|benchmarks|gin|docs|requirements|ci)/[\w./-]*$")
# One complete binding of gin, such as `outer/hmoe.Level.num_experts = 8`.
_BINDING = re.compile(
    r"^(?:\w+/)*(?:hmoe|init_checkpoint_variable_mapping)\.?[\w.]*\.\w+ = .*[^.]$"
)


def text(page: pathlib.Path) -> str:
    """Returns what is written on a page."""
    return page.read_text(encoding="utf-8")


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """Returns the blocks of code of a page in a language."""
    return [code for kind, code in _FENCE.findall(text(page)) if kind == language]


def prose(page: pathlib.Path) -> str:
    """Returns a page without its blocks of code."""
    return _FENCE.sub("", text(page))


def links(page: pathlib.Path) -> list[str]:
    """Returns the targets of the links and pictures of a page, but for those to the web."""
    found = _LINK.findall(_CODE.sub("", prose(page)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a page."""
    seen: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(prose(page)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = seen[slug] = seen.get(slug, -1) + 1
        found.add(f"{slug}-{number}" if number else slug)
    return found


def broken_links(page: pathlib.Path) -> list[str]:
    """Returns the links of a page that lead to no file or to no heading."""
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def paths(page: pathlib.Path) -> list[str]:
    """Returns the paths of this repository that a page names in backticks."""
    return [code for code in _CODE.findall(prose(page)) if _PATH.match(code)]


def missing_paths(page: pathlib.Path) -> list[str]:
    """Returns the paths named on a page that the repository does not have."""
    return [path for path in paths(page) if not (ROOT / path).exists()]


def bindings(page: pathlib.Path) -> Iterator[str]:
    """Yields the complete gin bindings that a page names in backticks."""
    for code in _CODE.findall(prose(page)):
        if _BINDING.match(code):
            yield code
