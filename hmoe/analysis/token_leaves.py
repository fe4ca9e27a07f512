"""Which leaves process each token of a layer, as a table of tokens and leaves."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from hmoe.analysis.routed import Routed, label_codes, routed
from hmoe.analysis.traces import Trace


@dataclasses.dataclass(frozen=True)
class TokenLeaves:
    """The tokens that a layer reads, and the leaves that process each.

    A leaf that processes two copies of a token counts once.

    Attributes:
      choices: the choices that reached a leaf, with the layer and its labels.
      example: int64 [tokens], number of the example, ascending.
      position: int64 [tokens], position in the sequence, ascending in each example.
      token: int64 [tokens], the token's id.
      label: int64 [tokens], index of the example's label in `choices.labels`; -1 for none.
      leaves: int64 sparse [tokens, leaves], 1 where the leaf processes the token; a row is empty
        where the token found no room or was not chosen.
    """

    choices: Routed
    example: np.ndarray
    position: np.ndarray
    token: np.ndarray
    label: np.ndarray
    leaves: sparse.csr_matrix

    def __len__(self) -> int:
        return len(self.example)

    def groups(self, level: int) -> sparse.csr_matrix:
        """Returns the experts of a level through which each token reached a leaf.

        Args:
          level: the level, 0 for the outermost.

        Returns:
          int64 sparse [tokens, experts over all levels down to this one], 0 or 1.
        """
        sizes = self.choices.sizes
        below = int(np.prod(sizes[level + 1 :], dtype=np.int64))
        rows, leaves = self.leaves.nonzero()
        return _indicator(rows, leaves // below, (len(self), int(np.prod(sizes[: level + 1]))))


def token_leaves(trace: Trace, layer: str, label: str | None = None) -> TokenLeaves:
    """Returns the tokens of a layer and the leaves that process them.

    Args:
      trace: the trace.
      layer: name of the layer.
      label: name of the label of examples; None: no example has a label.

    Raises:
      ValueError: the trace has no such layer or label.
    """
    choices = routed(trace, layer, label)
    columns = ("example", "position", "token")
    rows = np.flatnonzero(trace.rows_of(layer) & (trace.numbers["level"] == 0))
    places, first = np.unique(
        np.stack([trace.numbers[name][rows].astype(np.int64) for name in columns[:2]], axis=1),
        axis=0,
        return_index=True,
    )
    of_choice = _find(places, np.stack([choices.example, choices.position], axis=1))
    return TokenLeaves(
        choices=choices,
        example=places[:, 0],
        position=places[:, 1],
        token=trace.numbers["token"][rows[first]].astype(np.int64),
        label=label_codes(trace, label)[1][rows[first]],
        leaves=_indicator(of_choice, choices.leaf, (len(places), choices.layer.num_leaves)),
    )


def _find(places: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns at which row of a sorted table each wanted row is; it is there."""
    width = max(int(places.max(initial=0)), int(wanted.max(initial=0))) + 1
    keys = [each[:, 0] * width + each[:, 1] for each in (places, wanted)]
    return np.searchsorted(*keys)


def _indicator(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_matrix:
    """Returns int64 sparse of the shape, 1 at these places, however often they are named."""
    cells = np.unique(np.stack([rows, columns], axis=1), axis=0)
    ones = np.ones(len(cells), np.int64)
    return sparse.csr_matrix((ones, (cells[:, 0], cells[:, 1])), shape)
