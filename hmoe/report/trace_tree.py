"""The section about the tree of experts: what each of them processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hmoe.analysis.traces import LayerInfo, Trace
from hmoe.analysis.tree import Node, Tree, tree
from hmoe.report import drawing, views
from hmoe.report.content import Item, Note, Picture, Section, Table
from hmoe.report.views import View

_TOKENS = 8
# Labels of a node that its row names, and leaves that a picture has room for.
_MOST_LABELS, _MOST_LEAVES = 4, 64


def section(seen: Sequence[View]) -> Section:
    """Returns the section."""
    return Section(
        "tree",
        "The tree of experts",
        "share of a label = choices of the expert that have the label / its choices that have one;"
        " typical tokens: highest z of the log-odds of a token in the expert against all others",
        "An outer group whose inner experts have much of one label is a group for it; typical"
        " tokens are those that an expert gets more often than the rest of the layer does.",
        "Each layer, its outer groups and the experts inside; every choice that a leaf processes"
        " counts 1.",
        views.sides(seen, _items),
    )


def _items(view: View) -> list[Item]:
    trace = view.newest
    layers = trace.manifest.layers
    items: list[Item] = []
    for layer in views.pictured(layers):
        names: tuple[str | None, ...] = trace.manifest.labels or (None,)
        trees = {name or "": tree(trace, layer.name, name, num_tokens=_TOKENS) for name in names}
        first, found = next(iter(trees.items()))
        if found.labels and layer.num_leaves <= _MOST_LEAVES:
            items.append(_picture(view, layer, first, found))
        items.append(_table(layer, trees))
    return items + list(_left_out(trace))


def _left_out(trace: Trace) -> Iterator[Item]:
    layers = trace.manifest.layers
    missing = len(layers) - len(views.pictured(layers))
    if missing:
        yield Note(f"{missing} of {len(layers)} layers are not shown here, to keep the page small.")


def _table(layer: LayerInfo, trees: Mapping[str, Tree]) -> Table:
    """Returns a row for each expert of each level, groups before what is inside them."""
    names = [name for name in trees if name]
    columns = ("expert", "share of choices", *names, "typical tokens")
    rows = []
    for nodes in zip(*(_nodes(each.root) for each in trees.values())):
        kind = "leaf" if not nodes[0].children else "group"
        path = ".".join(map(str, nodes[0].path))
        labels = [_labels(each, node) for each, node in zip(trees.values(), nodes)][: len(names)]
        tokens = "  ".join(views.visible(token.piece) for token in nodes[0].tokens)
        rows.append((f"{kind} {path}", f"{nodes[0].share:.1%}", *labels, tokens))
    caption = f"{layer.name}: its experts{_limit(*trees.values())}"
    return Table(caption, columns, tuple(rows), is_prose=True)


def _nodes(node: Node) -> Iterator[Node]:
    """Yields the experts inside a node, each before those inside it."""
    for child in node.children:
        yield child
        yield from _nodes(child)


def _labels(found: Tree, node: Node) -> str:
    """Returns the most frequent labels of a node with their shares."""
    order = np.argsort(-node.label_shares, kind="stable")[:_MOST_LABELS]
    shown = [each for each in order if node.label_shares[each] > 0]
    return ", ".join(f"{found.labels[each]} {node.label_shares[each]:.0%}" for each in shown)


def _limit(*trees: Tree) -> str:
    """Returns words about labels with more values than are listed; "" if all are."""
    if max(len(each.labels) for each in trees) <= _MOST_LABELS:
        return ""
    return f", with at most {_MOST_LABELS} values of a label, the most frequent first"


def _picture(view: View, layer: LayerInfo, label: str, found: Tree) -> Picture:
    """Draws a bar for each leaf, as long as its share, in the colors of its labels."""
    leaves = [node for node in _nodes(found.root) if not node.children]
    inside = layer.levels[-1].num_experts if len(layer.levels) > 1 else len(leaves)
    places = np.array([number + 0.6 * (number // inside) for number in range(len(leaves))])
    names, shares = _most_frequent(found, leaves)
    figure, axes = drawing.figure(height=1.3 + 0.17 * len(leaves) + 0.1 * len(names))
    starts = np.zeros(len(leaves))
    for name, share, color in zip(names, shares.T, drawing.COLORS):
        axes.barh(places, share, left=starts, color=color, label=drawing.name(name), clip_on=False)
        starts += share
    axes.set_yticks(places, [".".join(map(str, node.path)) for node in leaves])
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.invert_yaxis()
    axes.set_xlabel("share of the layer's choices")
    axes.set_ylabel("leaf")
    drawing.legend(axes, names)
    words = "; ".join(
        f"leaf {'.'.join(map(str, node.path))}: {_labels(found, node) or 'nothing'}"
        for node in leaves
    )
    title = f"{layer.name}: {label} in each leaf"
    name = views.file_name("tree", layer.name, view)
    return drawing.picture(figure, name, title, f"{title}{_limit(found)}. {words}.")


def _most_frequent(found: Tree, leaves: Sequence[Node]) -> tuple[list[str], np.ndarray]:
    """Returns names and shares of labels in all choices, as many as there are colors.

    Returns:
      The names, and float64 [leaves, names]; labels beyond the most frequent are together the last.
    """
    shares = np.array([node.share * node.label_shares for node in leaves])
    names = list(found.labels)
    most = len(drawing.COLORS)
    if len(names) <= most:
        return names, shares
    order = np.argsort(-shares.sum(axis=0), kind="stable")
    first, rest = np.sort(order[: most - 1]), order[most - 1 :]
    others = shares[:, rest].sum(axis=1, keepdims=True)
    return (
        [*(names[each] for each in first), f"{len(rest)} others"],
        np.hstack([shares[:, first], others]),
    )
