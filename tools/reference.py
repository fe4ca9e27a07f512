"""Writes docs/reference.md from the code: `make reference`.

Defaults come from signatures, effects from docstrings, units and sources from
`tools.reference_tables`. tests/docs/test_reference_page.py compares the page with the code.
"""

from __future__ import annotations

import inspect
import pathlib
import re
import textwrap
from typing import Any, NamedTuple

from hmoe import compat

compat.behave_like_v1()

from hmoe.layer.moe import HierarchicalMoE  # noqa: E402
from hmoe.routing.token_choice import TokenChoiceRouter  # noqa: E402
from hmoe.t5 import configurables  # noqa: E402
from tools import reference_tables as tables  # noqa: E402

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "reference.md"

HEAD = """\
# Reference

Every argument of every class that gin files can name, and every metric. Written from the code by
`make reference`; a test compares it.

In gin a class is bound without a scope for all its uses (`hmoe.TopKRouter.k = 2`), or with one for
those that are named with it: `inner/hmoe.TopKRouter.k = 1` holds for `@inner/hmoe.TopKRouter()`.
In Python the same arguments go to `hmoe.Level`, `hmoe.TopKRouter` and so on; those of
`hmoe.MoELayer` to `hmoe.HierarchicalMoE`. Lines of the examples stand beside
`models/hierarchical_tiny.gin`, whose levels have the scopes `outer` and `inner`.

A level that is not the last sends tokens to groups of experts; its experts, below, are these
groups. A full token is a real one that came by first choices; a partial one came by a later choice,
and gets one expert; padding gets none.
"""

METRICS_HEAD = """\
## Metrics

Scalars of TensorBoard and lines of `metrics.jsonl`: in training in the model directory, each over
all steps since the last; in evaluation in its folder there, over all examples. Names are
`<layer>/<level>/<name>` for a level
(`encoder/block_000/layer_001/outer/load_imbalance`), `<layer>/<name>` for a layer, from end to end,
and `experts/<name>` for the model. `hmoe.HierarchicalMoE.metrics` says how many there are: those marked
`off` always, `brief` by default, `full` on request. X is the number of experts of the level; demand
counts choices of all tokens but padding, before policy and capacity.
"""

RUN_HEAD = """\
### Of the run

Beside the experts' metrics stand:
"""


class Argument(NamedTuple):
    """A row of a class's table."""

    name: str
    unit: str
    default: str
    effect: str
    source: str


def attributes(text: str, heading: str = "Attributes") -> dict[str, str]:
    """The entries of a section of a docstring, each on one line."""
    found = re.search(rf"^{heading}:\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE)
    entries = re.findall(
        r"^([*\w]+): ((?:.*\n?)(?:[ ]+.*\n?)*)",
        textwrap.dedent(found.group(1)) if found else "",
        re.MULTILINE,
    )
    return {name: " ".join(entry.split()) for name, entry in entries}


def documented(cls: type) -> dict[str, str]:
    """What the docstrings say of each argument; a class knows better than its base."""
    effects: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("hmoe."):
            # What is not in the class's docstring may be in the constructor's.
            own = base.__init__.__doc__ if "__init__" in vars(base) else ""
            effects.update(attributes(inspect.cleandoc(own or ""), "Args"))
            effects.update(attributes(inspect.getdoc(base) or ""))
    if "levels" in inspect.signature(_constructor(cls)).parameters:
        effects.update(attributes(inspect.getdoc(HierarchicalMoE) or ""))
    return effects


def _constructor(cls: type) -> Any:
    """The constructor that lists the arguments; one that hands all on is looked through."""
    for base in cls.__mro__:
        own = vars(base).get("__init__")
        if own and "settings" not in inspect.signature(own).parameters:
            return own
    raise TypeError(f"{cls.__name__} has no constructor that lists its arguments")


def parameters(cls: type) -> dict[str, Any]:
    """{argument: default}, of the class's own constructor first."""
    found: dict[str, Any] = {}
    for function in (cls.__init__, _constructor(cls)):
        for name, parameter in inspect.signature(function).parameters.items():
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                found.setdefault(name, parameter.default)
    return found


def rows(cls: type) -> list[Argument]:
    """The table of a class.

    Raises:
      ValueError: an argument lacks its unit, effect or source, or the table has one too many.
    """
    effects, known = documented(cls), dict(tables.ARGUMENTS.get(cls.__name__, {}))
    table = []
    for name, default in parameters(cls).items():
        unit, source = known.pop(name, ("", ""))
        # The attribute of the argument `activation` is `activations`.
        effect = effects.get(name) or effects.get(f"{name}s", "")
        for what, value in (("unit", unit), ("effect", effect), ("source", source)):
            if not value:
                raise ValueError(
                    f"{cls.__name__}.{name} has no {what}: units and sources are in"
                    " tools/reference_tables.py, effects in the docstrings"
                )
        table.append(Argument(name, unit, _shown(default), effect, source))
    if known:
        raise ValueError(
            f"{cls.__name__} has no argument {', '.join(known)}, which"
            " tools/reference_tables.py describes"
        )
    return table


def _shown(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{each}"' for each in default) + "]`"
    return f"`{default}`"


def paragraph(cls: type) -> str:
    """What the docstring of a class says before its attributes, without line breaks."""
    text = (inspect.getdoc(cls) or "").split("\nAttributes:")[0]
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _table(head: list[str], lines: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


def _section(cls: type) -> str:
    table = _table(
        ["argument", "unit", "default", "effect", "source"],
        [[f"`{row.name}`", *row[1:]] for row in rows(cls)],
    )
    example = tables.EXAMPLES[cls.__name__].strip()
    return f"## `hmoe.{cls.__name__}`\n\n{paragraph(cls)}\n\n{table}\n\n```gin\n{example}\n```\n"


def classes() -> list[type]:
    """The classes as they are written; gin keeps a subclass of each."""
    return [cls.__mro__[1] for cls in configurables.CLASSES]


def _shared() -> str:
    return (
        "## What routers share\n\n"
        f"{paragraph(TokenChoiceRouter)}\n\nA router of your own derives from"
        " `hmoe.TokenChoiceRouter`, see [Add a router in four steps](add_a_router.md). Its"
        ' arguments are those of `hmoe.TopKRouter`; `k` is 1, the policies are `"all"` and'
        " `weight_norm` is `None` by default.\n"
    )


def _metrics() -> str:
    parts = [METRICS_HEAD]
    for of, heading in (("level", "a level"), ("layer", "a layer"), ("model", "the model")):
        lines = [
            [f"`{row.name}`", row.detail, row.unit, row.meaning, row.formula]
            for row in tables.METRICS
            if row.of == of
        ]
        parts.append(
            f"### Of {heading}\n\n"
            + _table(["name", "detail", "unit", "meaning", "formula"], lines)
            + "\n"
        )
    run = [[f"`{name}`", *row] for name, row in tables.RUN.items()]
    parts.append(RUN_HEAD + "\n" + _table(["name", "in", "unit", "meaning"], run) + "\n")
    return "\n".join(parts)


def page() -> str:
    """The whole page."""
    sections = [HEAD]
    for cls in classes():
        sections.append(_section(cls))
        if cls.__name__ == "Gate":
            sections.append(_shared())
    sections.append(_metrics())
    sources = _table(
        ["source", "what"],
        [
            [name, what]
            for name, what in sorted(tables.REFERENCES.items(), key=lambda item: item[0].lower())
        ],
    )
    sections.append(f"## Sources\n\n{sources}\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
