"""Writes a report as one HTML page that needs no network, with all texts escaped."""

from __future__ import annotations

import base64
import dataclasses
import functools
import os
from collections.abc import Sequence

from hmoe.report.content import Chart, Section, Table
from hmoe.version import __version__

# What the page's own script calls.
_EXPORTS = "window.vegaEmbed = vegaEmbed;"


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What ran.

    Attributes:
      title: the run's name.
      facts: what is known of it.
      gin: the text of its configuration; "" if there is none.
    """

    title: str
    facts: Table
    gin: str


def html(title: str, runs: Sequence[RunFacts], sections: Sequence[Section]) -> str:
    """Returns the page.

    Args:
      title: its title.
      runs: what ran, one or two runs.
      sections: the sections, in order.
    """
    import jinja2

    folder = os.path.dirname(__file__)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["base64"] = _base64
    with open(os.path.join(folder, "page.css"), encoding="utf-8") as file:
        css = file.read()
    return environment.get_template("page.html").render(
        title=title,
        runs=runs,
        sections=sections,
        css=css,
        script=_script() if _has_charts(sections) else "",
        made_by=f"Made by hmoe {__version__}, from files of the run alone.",
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def _has_charts(sections: Sequence[Section]) -> bool:
    return any(
        isinstance(item, Chart)
        for section in sections
        for side in section.sides
        for item in side.items
    )


@functools.cache  # bundling takes seconds
def _script() -> str:
    """Returns what draws charts, such that no text in it ends the script that it stands in."""
    import vl_convert

    bundle = vl_convert.javascript_bundle(_EXPORTS)
    return bundle.replace("</script", r"<\/script").replace("<!--", r"<\!--")
