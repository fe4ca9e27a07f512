"""The choices of a traced layer that reached an expert at its end, one row for each."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis.traces import LayerInfo, Trace


@dataclasses.dataclass(frozen=True)
class Routed:
    """The choices at the last level that are used and found room.

    A token has as many rows as experts process it. A leaf is an expert at the end of the hierarchy;
    leaves are numbered from 0 with the outermost level first, so that the leaf of inner expert y in
    outer group x is x * Y + y.

    Attributes:
      layer: the layer.
      labels: the labels that examples have, without "".
      example: int64 [choices], number of the example.
      position: int64 [choices], position of the token in its sequence.
      token: int64 [choices], id of the token.
      label: int64 [choices], index of the example's label in `labels`; -1 where it has none.
      leaf: int64 [choices], the leaf that processes the token.
      weight: float32 [choices], weight of the choice at the last level, before capacity.
    """

    layer: LayerInfo
    labels: tuple[str, ...]
    example: np.ndarray
    position: np.ndarray
    token: np.ndarray
    label: np.ndarray
    leaf: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.leaf)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of experts at each level, outermost first."""
        return sizes(self.layer)

    def groups(self, level: int) -> np.ndarray:
        """Returns the expert of a level through which each choice went.

        Args:
          level: the level, 0 for the outermost.

        Returns:
          int64 [choices], numbered over all levels down to this one; at the last level the leaf.
        """
        return self.leaf // int(np.prod(self.sizes[level + 1 :], dtype=np.int64))

    def counts(self) -> np.ndarray:
        """Returns how many choices of each label went to each leaf, int64 [labels, leaves]."""
        num_leaves = self.layer.num_leaves
        labeled = self.label >= 0
        cells = self.label[labeled] * num_leaves + self.leaf[labeled]
        found = np.bincount(cells, minlength=len(self.labels) * num_leaves)
        return found.reshape(len(self.labels), num_leaves)


def sizes(layer: LayerInfo) -> tuple[int, ...]:
    """Returns the number of experts at each level of a layer, outermost first."""
    return tuple(level.num_experts for level in layer.levels)


def routed(trace: Trace, layer: str, label: str | None = None) -> Routed:
    """Returns the choices of a layer that reached an expert at its end.

    Args:
      trace: the trace.
      layer: name of the layer.
      label: name of the label of examples; None: no example has a label.

    Raises:
      ValueError: the trace has no such layer or label.
    """
    info = layer_of(trace, layer)
    names, codes = label_codes(trace, label)
    numbers = trace.numbers
    rows = trace.rows_of(layer) & (numbers["level"] == len(info.levels) - 1)
    rows &= numbers["used"] & (numbers["went"] >= 0)
    columns = {
        name: numbers[name][rows].astype(np.int64) for name in ("example", "position", "token")
    }
    parent, went = (numbers[name][rows].astype(np.int64) for name in ("parent", "went"))
    return Routed(
        layer=info,
        labels=names,
        label=codes[rows],
        leaf=parent * info.levels[-1].num_experts + went,
        weight=numbers["weight"][rows],
        **columns,
    )


def layer_of(trace: Trace, name: str) -> LayerInfo:
    """Returns the layer of this name.

    Raises:
      ValueError: the trace has no such layer.
    """
    names = [layer.name for layer in trace.manifest.layers]
    if name not in names:
        raise ValueError(f"the trace has no layer {name!r}; it has {', '.join(map(repr, names))}")
    return trace.manifest.layer(name)


def label_codes(trace: Trace, label: str | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the label of each row of a trace.

    Args:
      trace: the trace.
      label: name of the label of examples; None: no row has a label.

    Returns:
      The labels other than "", and int64 [rows], the index of the row's label, -1 for none.

    Raises:
      ValueError: the trace has no such label.
    """
    if label is None:
        return (), np.full(len(trace), -1, np.int64)
    if label not in trace.manifest.labels:
        known = ", ".join(map(repr, trace.manifest.labels)) or "none"
        raise ValueError(f"the trace has no label {label!r}; it has {known}")
    category = trace.label(label)
    names = tuple(name for name in category.names if name)
    numbers = [names.index(name) if name else -1 for name in category.names]
    return names, np.array(numbers, np.int64)[category.codes]
