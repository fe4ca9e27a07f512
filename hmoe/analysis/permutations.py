"""Mutual information of labels and experts within strata, and its null by permuted labels.

A cell is what one example has in one stratum, such as an outer group or a token: how many of its
choices went to each expert. All choices of a cell carry the example's label. Under the null
hypothesis the labels of a stratum's cells are exchangeable, though the choices of one example are
not independent. So each stratum's own labels are permuted among its cells, which stay whole; and
one random number of each example orders its cells in all strata, so that an example gets the same
label in all of them as far as the labels that they have allow. With one stratum, or where every
example is in every stratum, this permutes the labels of examples.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import xlogy


@dataclasses.dataclass(frozen=True)
class Cells:
    """What examples have in strata, in the order of strata, labels and examples.

    Only nonzero counts are stored. An entry is one of them.

    Attributes:
      stratum: int64 [cells].
      label: int64 [cells].
      example: int64 [cells].
      cell: int64 [entries], the cell of each entry.
      expert: int64 [entries], an expert.
      count: int64 [entries], the choices of the cell that went to this expert.
    """

    stratum: np.ndarray
    label: np.ndarray
    example: np.ndarray
    cell: np.ndarray
    expert: np.ndarray
    count: np.ndarray


def cells(example: np.ndarray, stratum: np.ndarray, label: np.ndarray, expert: np.ndarray) -> Cells:
    """Gathers choices into cells.

    Args:
      example: int64 [choices], number of the example.
      stratum: int64 [choices], in which stratum the choice is counted.
      label: int64 [choices], the same for all choices of an example.
      expert: int64 [choices].
    """
    choices = np.stack([stratum, label, example, expert], axis=1)
    found, count = np.unique(choices, axis=0, return_counts=True)
    starts = np.ones(len(found), bool)
    starts[1:] = (found[1:, :3] != found[:-1, :3]).any(axis=1)
    return Cells(
        stratum=found[starts, 0],
        label=found[starts, 1],
        example=found[starts, 2],
        cell=np.cumsum(starts) - 1,
        expert=found[:, 3],
        count=count.astype(np.int64),
    )


def information(
    cells: Cells, num_permutations: int, random: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Returns the information of labels and experts given the stratum, and its null.

    The plug-in estimate, over choices: H(stratum, label) + H(stratum, expert) -
    H(stratum, label, expert) - H(stratum), with H = -sum_i p_i log2 p_i.

    Args:
      cells: the cells.
      num_permutations: how often labels are permuted.
      random: source of random numbers.

    Returns:
      The information in bits, and float64 [permutations], the same with permuted labels.
    """
    table = _Table(cells)
    found = table.information(table.label_rank)
    null = [table.information(table.permuted(random)) for _ in range(num_permutations)]
    return found, np.array(null, np.float64)


def entropy(counts: np.ndarray) -> float:
    """Returns the entropy of counts in bits; 0 where there are none."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum())


class _Table:
    """Counts by stratum, label and expert, of which only the labels change.

    A stratum has a row for each label and a column for each expert that it has, no more, so that
    many small strata, such as tokens, take little room. The tables of all strata stand one after
    the other in one array.

    Attributes:
      label_rank: int64 [cells], the row of each cell, ascending in each stratum.
    """

    def __init__(self, cells: Cells):
        _, self._stratum = np.unique(cells.stratum, return_inverse=True)
        names, self._example = np.unique(cells.example, return_inverse=True)
        self._num_examples = len(names)
        self._cell, self._count = cells.cell, cells.count
        self._cell_count = np.bincount(cells.cell, cells.count, len(cells.stratum))
        self._total = int(cells.count.sum())
        numbers = np.arange(self._total + 1.0)
        self._n_log_n = xlogy(numbers, numbers) / np.log(2)
        stratum = self._stratum[cells.cell]
        self.label_rank, num_labels = _ranks(self._stratum, cells.label)
        expert_rank, num_experts = _ranks(stratum, cells.expert)
        self._row_start = _starts(num_labels)[self._stratum]
        self._row_length = num_experts[stratum]
        self._table_start = _starts(num_labels * num_experts)[stratum] + expert_rank
        by_expert = self._sum(_starts(num_experts)[stratum] + expert_rank, self._count)
        self._constant = self._sum(stratum, self._count) - by_expert

    def permuted(self, random: np.random.Generator) -> np.ndarray:
        """Returns `label_rank` with the labels of each stratum given to other cells of it."""
        order = np.argsort(self._stratum + random.random(self._num_examples)[self._example])
        permuted = np.empty_like(self.label_rank)
        permuted[order] = self.label_rank
        return permuted

    def information(self, label_rank: np.ndarray) -> float:
        """Returns the information in bits if these are the labels of the cells."""
        if not self._total:
            return 0.0
        by_label = self._sum(self._row_start + label_rank, self._cell_count)
        row = label_rank[self._cell] * self._row_length
        by_all = self._sum(self._table_start + row, self._count)
        return max(by_all - by_label + self._constant, 0.0) / self._total

    def _sum(self, places: np.ndarray, counts: np.ndarray) -> float:
        """Returns the sum of n log2 n over the counts that are added up at each place."""
        return float(self._n_log_n[np.bincount(places, counts).astype(np.int64)].sum())


def _ranks(stratum: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the values of each stratum from 0, and counts them.

    Args:
      stratum: int64 [entries], from 0.
      value: int64 [entries].

    Returns:
      int64 [entries], the number of each value in its stratum; int64 [strata], how many it has.
    """
    pairs, pair = np.unique(np.stack([stratum, value], axis=1), axis=0, return_inverse=True)
    number = np.bincount(pairs[:, 0])
    return pair.reshape(-1) - _starts(number)[stratum], number


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Returns where each of several arrays begins that stand one after the other."""
    return np.cumsum(lengths) - lengths
