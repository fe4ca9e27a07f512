"""Writes docs/reference.md from the code: `make reference`.

Classes come from gin's registry; arguments, units, sources and meanings from their fields; metrics
from the tables that compute them; examples from docs/examples. A test compares the page with the
code (tests/docs/test_reference_page.py).
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gin import config as gin_config

from hmoe import compat, config

compat.behave_like_v1()

import hmoe.t5  # noqa: E402, F401  (registers everything)
from hmoe.layer import metrics  # noqa: E402
from hmoe.routing.token_choice import TokenChoiceRouter  # noqa: E402
from hmoe.t5.sessions import run_metrics, session_settings  # noqa: E402, F401

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "reference.md"
EXAMPLES = DOCS / "examples"

REQUIRED = inspect.Parameter.empty

# Sections in the order in which a reader needs them; others follow by name.
FIRST = (
    "MoELayer",
    "HierarchicalMoE",
    "Level",
    "Gate",
    "TopKRouter",
    "SwitchRouter",
    "ExpertChoiceRouter",
    "UniformRouter",
    "FeedForwardExperts",
    "SharedExpert",
    "ExpertsSelfAttention",
    "ExpertsEncDecAttention",
    "Session",
    "TrainingData",
)

SOURCES = {
    "DeepSeek-V3": "DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2; after Wang et al. 2024,"
    " arXiv:2408.15664",
    "DeepSeekMoE": "Dai et al. 2024, arXiv:2401.06066",
    "GLU": "Shazeer 2020, arXiv:2002.05202",
    "GShard": "Lepikhin et al. 2020, arXiv:2006.16668",
    "hmoe": "no other library that we know of has it in this form",
    "Mesh TensorFlow": "0.1.21, `mesh_tensorflow/transformer/moe.py` (attention:"
    " `transformer_layers.py`); names are arguments of `MoE1D` if no other class is named",
    "OLMo-core": "`olmo_core/nn/moe` of 3.0.0",
    "Shazeer 2017": "Shazeer et al. 2017, arXiv:1701.06538",
    "ST-MoE": "Zoph et al. 2022, arXiv:2202.08906",
    "Switch": "Fedus et al. 2021, arXiv:2101.03961",
    "T5X": "`t5x/contrib/moe`",
    "TF Model Garden": "`official/nlp/modeling/layers/moe.py` of 2.20.0",
    "torchtune": "the RFC of its mixture of experts",
    "V-MoE": "Riquelme et al. 2021, arXiv:2106.05974",
    "Zhou 2022": "Zhou et al. 2022, arXiv:2202.09368",
}

HEAD = """\
# Reference

This page lists every argument of every class that gin files can name, and every metric. `make
reference` writes it from the code; a test compares it.

In gin, a class is bound without a scope for all its uses (`hmoe.TopKRouter.k = 2`), or with one
for those that are named with it: `inner/hmoe.TopKRouter.k = 1` holds for
`@inner/hmoe.TopKRouter()`. In Python the same arguments go to `hmoe.HierarchicalMoE`,
`hmoe.Level`, `hmoe.TopKRouter` and so on, by keyword. The examples add to
`models/hierarchical_tiny.gin`, whose levels have the scopes `outer` and `inner`; they stand in
`docs/examples/`.

A full token is a real token that came by first choices. A partial token came by a later choice and
gets one expert. Padding gets none. The [glossary](glossary.md) has the other words.
"""

METRICS_HEAD = """\
## Metrics

Metrics are scalars of TensorBoard and lines of `metrics.jsonl`: in training in the model
directory, each over all steps since the last; in evaluation in its folder there, over all
examples. Names are `<layer>/<level>/<name>` for a level
(`encoder/block_000/layer_001/outer/load_imbalance`), `<layer>/<name>` for a layer, from end to
end, and `experts/<name>` for the model. `hmoe.HierarchicalMoE.metrics` sets how many there are:
those marked `off` always, `brief` by default, `full` on request. X is the number of experts of the
level; demand counts choices of all tokens but padding, before policy and capacity.
"""

RUN_HEAD = """\
### Of the run

Beside the experts' metrics there are:
"""


class Argument(NamedTuple):
    """A row of a class's table."""

    name: str
    unit: str
    default: str
    effect: str
    source: str


def registered() -> dict[str, Callable]:
    """Returns the classes and functions that gin knows as `hmoe.<name>`, by name."""
    # gin has no public way to list what is registered.
    found = {
        each.name: each.wrapped for _, each in gin_config._REGISTRY.items() if each.module == "hmoe"
    }
    first = [name for name in FIRST if name in found]
    return {name: found[name] for name in [*first, *sorted(found.keys() - set(first))]}


def rows(made: Callable) -> list[Argument]:
    """Returns the table of a class; none for a function, which gin hands on as it is.

    Raises:
      ValueError: an argument of the constructor is not documented.
    """
    if not inspect.isclass(made):
        return []
    documented = _documented(made)
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    missing = parameters.keys() - documented.keys()
    if missing:
        raise ValueError(f"{made.__name__}.{min(missing)} is not documented by a field")
    return [
        Argument(name, each.unit, _shown(each, parameters[name]), each.doc, each.source)
        for name, each in documented.items()
    ]


def _documented(cls: type) -> dict[str, config.Setting]:
    """Returns the documented arguments of a class, its own before those that it inherits."""
    if not dataclasses.is_dataclass(cls):
        return dict(cls.arguments)
    fields = [field for field in config.settings(cls) if field.init]
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__annotations__", {})}
    fields.sort(key=lambda field: field.name in inherited)
    return {field.name: config.described(cls, field.name) for field in fields}


def _shown(setting: config.Setting, default: object) -> str:
    if default is REQUIRED or (default is None and not _accepts_none(setting)):
        return "required"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple):
        return "`[" + ", ".join(f'"{each}"' for each in default) + "]`"
    if callable(default):
        return f"`{getattr(default, '__name__', default)}`"
    return f"`{default}`"


def _accepts_none(setting: config.Setting) -> bool:
    """Returns whether None is a value; T5's layers have it as a default, to explain its error."""
    try:
        setting.check("", "", None)
    except ValueError:
        return False
    return True


def paragraph(made: Callable) -> str:
    """Returns the docstring up to its first section, without line breaks."""
    text = inspect.cleandoc(made.__doc__ or "")
    for heading in ("Attributes", "Args", "Raises"):
        text = text.split(f"\n{heading}:")[0]
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rules = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rules, *cells))


def example(name: str) -> str:
    """Returns the gin example of a class."""
    return (EXAMPLES / f"{name}.gin").read_text(encoding="utf-8").strip()


def _section(name: str, made: Callable) -> str:
    arguments = rows(made)
    parts = [f"## `hmoe.{name}`", paragraph(made)]
    if arguments:
        head = ["argument", "unit", "default", "effect", "source"]
        parts.append(_table(head, [[f"`{row.name}`", *row[1:]] for row in arguments]))
    parts.append(f"```gin\n{example(name)}\n```")
    return "\n\n".join(parts) + "\n"


def _shared() -> str:
    return (
        "## What routers share\n\n"
        f"{paragraph(TokenChoiceRouter)}\n\nA router of your own derives from"
        " `hmoe.TokenChoiceRouter`, see [Add a router in four steps](add_a_router.md). Its"
        ' arguments are those of `hmoe.TopKRouter`; by default `k` is 1, the policies are `"all"`,'
        " and `weight_norm` is `None`.\n"
    )


def _metrics() -> str:
    parts = [METRICS_HEAD]
    for heading, table in (
        ("a level", metrics.LEVEL_METRICS),
        ("a layer", metrics.LAYER_METRICS),
        ("the model", metrics.MODEL_METRICS),
    ):
        lines = [[f"`{row.name}`", row.detail, row.unit, row.meaning, row.formula] for row in table]
        head = ["name", "detail", "unit", "meaning", "formula"]
        parts.append(f"### Of {heading}\n\n{_table(head, lines)}\n")
    for heading, rows in (
        ("### Of a level and of a layer, over steps\n", run_metrics.LOAD_METRICS),
        (RUN_HEAD, run_metrics.RUN_METRICS),
    ):
        lines = [[f"`{row.name}`", row.where, row.unit, row.meaning] for row in rows]
        parts.append(f"{heading}\n{_table(['name', 'in', 'unit', 'meaning'], lines)}\n")
    return "\n".join(parts)


def page() -> str:
    """Returns the whole page."""
    sections = [HEAD]
    for name, made in registered().items():
        sections.append(_section(name, made))
        if name == "Gate":
            sections.append(_shared())
    sections.append(_metrics())
    lines = sorted(SOURCES.items(), key=lambda item: item[0].lower())
    sections.append(f"## Sources\n\n{_table(['source', 'what'], lines)}\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
