"""The section about what experts of each level know of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from hmoe.analysis.information import Information, LayerInformation, information
from hmoe.report import drawing, views
from hmoe.report.content import Item, Note, Picture, Section, Table
from hmoe.report.views import View

_PERMUTATIONS = 1000
# The axis of a picture ends at least here, so that tiny shares look tiny.
_LEAST_AXIS = 0.1
_COLUMNS = ("layer and part", "bits", "by chance", "corrected", "of H(label)", "z")

# What was found, by label and layer.
_Found: TypeAlias = Mapping[str, Mapping[str, LayerInformation]]


def section(seen: Sequence[View]) -> Section:
    """Returns the section."""
    # By label and layer; computed first, for all pictures to have the same axis.
    found = {view.folder: _of_labels(view) for view in seen if view.traces}
    shares = [
        each.share(each.leaf)
        for labels in found.values()
        for layers in labels.values()
        for each in layers.values()
    ]
    limit = min(1.0, max([_LEAST_AXIS, *(1.1 * share for share in shares)]))
    return Section(
        "information",
        "Information by level",
        "I(label; outer) + I(label; inner | outer) = I(label; leaf), a share of H(label); given the"
        " token: I(label; leaf | token), a share of H(label | token); corrected = I less its mean"
        f" over {_PERMUTATIONS:,} permutations of labels; z = corrected / their standard deviation",
        "A share of 1 means that the experts tell the label for certain, and a z below about 3 is"
        " what chance does; what remains given the token is what an expert knows of a label beyond"
        " the script and the words.",
        "Each layer and label; every choice that a leaf processes counts 1, also a token's second."
        " Labels are permuted by example: among the examples that came to a group, or that have a"
        " token.",
        views.sides(seen, lambda view: _items(view, found[view.folder], limit)),
    )


def _of_labels(view: View) -> _Found:
    trace = view.newest
    return {
        label: {
            layer.name: information(trace, layer.name, label, num_permutations=_PERMUTATIONS)
            for layer in trace.manifest.layers
        }
        for label in trace.manifest.labels
    }


def _items(view: View, found: _Found, limit: float) -> list[Item]:
    items: list[Item] = []
    for label, layers in found.items():
        rows = [row for name, each in layers.items() for row in _rows(name, view, each)]
        items.append(_picture(view, label, layers, limit))
        items.append(Table(f"Information of {label} and experts", _COLUMNS, tuple(rows)))
    return items or [Note("The examples of this trace have no labels.")]


def _rows(name: str, view: View, found: LayerInformation) -> list[tuple[str, ...]]:
    levels = [level.name for level in view.newest.manifest.layer(name).levels]
    parts = [f"{level}, given its parent" if n else level for n, level in enumerate(levels)]
    rows = [_row(name, part, each, found) for part, each in zip(parts, found.levels)]
    rows.append(_row(name, "leaf", found.leaf, found))
    remaining = found.given_token
    share = remaining.corrected / found.token_entropy if found.token_entropy > 0 else 0.0
    words = f"{share:.1%} of H(label | token)"
    rows.append((f"{name}: leaf, given the token", *_numbers(remaining, words)))
    return rows


def _row(name: str, part: str, each: Information, found: LayerInformation) -> tuple[str, ...]:
    return (f"{name}: {part}", *_numbers(each, f"{found.share(each):.1%}"))


def _numbers(each: Information, share: str) -> tuple[str, ...]:
    return (
        f"{each.bits:.3f}",
        f"{each.mean:.3f} ± {each.deviation:.3f}",
        f"{each.corrected:.3f}",
        share,
        f"{each.z:.1f}",
    )


def _picture(
    view: View, label: str, found: Mapping[str, LayerInformation], limit: float
) -> Picture:
    """Draws the share of the label's entropy that each level has, one bar for each layer."""
    figure, axes = drawing.figure(height=1.5 + 0.3 * len(found))
    names = list(found)
    depth = max(len(each.levels) for each in found.values())
    starts = [0.0] * len(names)
    for level, color in zip(range(depth), drawing.colors(depth)):
        shares = [
            max(0.0, each.share(each.levels[level])) if level < len(each.levels) else 0.0
            for each in found.values()
        ]
        axes.barh(
            range(len(names)), shares, left=starts, color=color, label=_level_name(view, level)
        )
        starts = [start + share for start, share in zip(starts, shares)]
    axes.set_yticks(range(len(names)), [drawing.name(each) for each in names])
    axes.invert_yaxis()
    axes.set_xlim(0, limit)
    axes.set_xlabel(f"share of H({drawing.name(label)})")
    drawing.legend(axes, [_level_name(view, level) for level in range(depth)])
    words = "; ".join(f"{name}: {share:.1%}" for name, share in zip(names, starts))
    title = f"Corrected information of {label} and experts, over the entropy of {label}"
    name = views.file_name("information", label, view)
    return drawing.picture(figure, name, title, f"{title}. All levels together: {words}.")


def _level_name(view: View, number: int) -> str:
    """Returns the names that a level has in the layers."""
    layers = view.newest.manifest.layers
    names = (layer.levels[number].name for layer in layers if number < len(layer.levels))
    return " or ".join(dict.fromkeys(names))
