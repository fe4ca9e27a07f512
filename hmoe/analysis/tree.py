"""What each expert of a layer processes, as the tree that the levels are."""

from __future__ import annotations

import dataclasses

import numpy as np

from hmoe.analysis.routed import Routed, routed
from hmoe.analysis.traces import Trace


@dataclasses.dataclass(frozen=True)
class TypicalToken:
    """A token that an expert processes more than the rest of the layer does.

    Attributes:
      token: its id.
      piece: its text.
      count: how many of the expert's choices are of it.
      score: how typical it is; see `typicality`.
    """

    token: int
    piece: str
    count: int
    score: float


@dataclasses.dataclass(frozen=True)
class Node:
    """An expert of an outer level with the experts inside it, or a leaf; or all of the layer.

    Attributes:
      path: its number among its siblings, and before it those of the experts around it, outermost
        first; () for all of the layer.
      count: choices that went through it and reached a leaf.
      share: the share of the layer's choices; 0 where there are none.
      label_shares: float64 [labels], the share of each label in its choices that have a label;
        all 0 where there are none.
      tokens: its most typical tokens, the most typical first.
      children: the experts inside it, in order; none at a leaf.
    """

    path: tuple[int, ...]
    count: int
    share: float
    label_shares: np.ndarray
    tokens: tuple[TypicalToken, ...]
    children: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class Tree:
    """The experts of a layer.

    Attributes:
      labels: the labels of `Node.label_shares`.
      root: all of the layer.
    """

    labels: tuple[str, ...]
    root: Node


def tree(
    trace: Trace, layer: str, label: str | None = None, *, num_tokens: int = 8, min_count: int = 2
) -> Tree:
    """Describes each expert of a layer by its choices.

    Args:
      trace: the trace.
      layer: name of the layer.
      label: name of the label of examples; None: none.
      num_tokens: the most typical tokens of each expert, at most.
      min_count: how often the expert must process a token that is typical of it.

    Raises:
      ValueError: the trace has no such layer or label.
    """
    counter = _Counter(trace, routed(trace, layer, label), num_tokens, min_count)
    return Tree(counter.choices.labels, counter.node(()))


def typicality(counts: np.ndarray) -> np.ndarray:
    """Scores how typical each token is of each expert, against all other experts together.

    The z-score of the log-odds ratio with an informative Dirichlet prior, of Monroe, Colaresi and
    Quinn 2008, "Fightin' Words", Political Analysis 16(4). For a token with y of an expert's n
    choices, and y' of the n' choices of the others,

        log (y + a) / (n + A - y - a) - log (y' + a) / (n' + A - y' - a)

    over sqrt(1 / (y + a) + 1 / (y' + a)). The prior a of a token is its share of all choices times
    A, which is the number of tokens that occur: on average one choice of each.

    Args:
      counts: int64 [experts, tokens], the choices of each expert by token.

    Returns:
      float64 [experts, tokens], above 0 for tokens that the expert has more than the others; all 0
      where fewer than two tokens occur.
    """
    total = counts.sum(axis=0)
    strength = np.count_nonzero(total)
    if strength < 2:
        return np.zeros(counts.shape)
    prior = total / total.sum() * strength
    there = total > 0
    scores = np.zeros(counts.shape)
    scores[:, there] = _difference(counts[:, there], (total - counts)[:, there], prior[there])
    return scores


def _difference(ours: np.ndarray, theirs: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Returns the z-score of the difference of log-odds, [experts, tokens]."""
    odds = [
        np.log(each + prior) - np.log((each + prior).sum(axis=1, keepdims=True) - each - prior)
        for each in (ours, theirs)
    ]
    variance = 1 / (ours + prior) + 1 / (theirs + prior)
    return (odds[0] - odds[1]) / np.sqrt(variance)


class _Counter:
    """Counts the choices of each expert of each level once.

    Attributes:
      choices: the choices.
    """

    def __init__(self, trace: Trace, choices: Routed, num_tokens: int, min_count: int):
        self.choices = choices
        self._num_tokens, self._min_count = num_tokens, min_count
        self._tokens, self._token = np.unique(choices.token, return_inverse=True)
        self._pieces = _pieces(trace, choices.layer.name, self._tokens)
        levels = [np.zeros(len(choices), np.int64)]
        levels += [choices.groups(level) for level in range(len(choices.sizes))]
        widths = np.cumprod([1, *choices.sizes])
        labeled = choices.label >= 0
        self._by_token = [
            _table(expert, self._token, (width, len(self._tokens)))
            for expert, width in zip(levels, widths)
        ]
        self._by_label = [
            _table(expert[labeled], choices.label[labeled], (width, len(choices.labels)))
            for expert, width in zip(levels, widths)
        ]
        self._scores = [typicality(counts) for counts in self._by_token]

    def node(self, path: tuple[int, ...]) -> Node:
        """Returns the node of a path, with all that is inside it."""
        depth, sizes = len(path), self.choices.sizes
        expert = int(np.ravel_multi_index(path, sizes[:depth])) if path else 0
        count = int(self._by_token[depth][expert].sum())
        labels = self._by_label[depth][expert]
        inside = range(sizes[depth]) if depth < len(sizes) else ()
        return Node(
            path=path,
            count=count,
            share=count / max(len(self.choices), 1),
            label_shares=labels / max(labels.sum(), 1),
            tokens=self._typical(depth, expert) if path else (),
            children=tuple(self.node((*path, number)) for number in inside),
        )

    def _typical(self, depth: int, expert: int) -> tuple[TypicalToken, ...]:
        counts, scores = self._by_token[depth][expert], self._scores[depth][expert]
        found = np.flatnonzero((counts >= self._min_count) & (scores > 0))
        best = found[np.argsort(-scores[found], kind="stable")][: self._num_tokens]
        return tuple(
            TypicalToken(
                int(self._tokens[each]), self._pieces[each], int(counts[each]), float(scores[each])
            )
            for each in best
        )


def _pieces(trace: Trace, layer: str, tokens: np.ndarray) -> list[str]:
    """Returns the text of each token; another layer may read tokens of another vocabulary."""
    rows = np.flatnonzero(trace.rows_of(layer))
    ids, first = np.unique(trace.numbers["token"][rows], return_index=True)
    category = trace.categories["piece"]
    found = category.codes[rows[first[np.searchsorted(ids, tokens)]]]
    return [category.names[code] for code in found]


def _table(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns int64 of the shape, how often each pair of a row and a column is there."""
    cells = rows * shape[1] + columns
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
