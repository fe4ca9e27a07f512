"""Which share of a domain's tokens, or of a token's occurrences, each expert processes.

Domain and vocabulary specialization of Muennighoff et al. 2024, "OLMoE: Open Mixture-of-Experts
Language Models", arXiv 2409.02060. A domain is a label of examples here, and an expert a leaf.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from hmoe.analysis.token_leaves import token_leaves
from hmoe.analysis.traces import Trace


@dataclasses.dataclass(frozen=True)
class DomainSpecialization:
    """The share of each label's tokens that each leaf processes.

    Attributes:
      labels: the labels.
      counts: int64 [labels, leaves], tokens of the label that the leaf processes.
      tokens: int64 [labels], tokens of the label, also those that no leaf processes.
    """

    labels: tuple[str, ...]
    counts: np.ndarray
    tokens: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """N(leaf, label) / N(label), float64 [labels, leaves]; 0 for a label without tokens."""
        return self.counts / np.maximum(self.tokens, 1)[:, None]

    @property
    def even(self) -> float:
        """The share of a leaf where all leaves process as many tokens, whatever their labels."""
        return float(self.counts.sum() / max(self.tokens.sum(), 1) / self.counts.shape[1])


@dataclasses.dataclass(frozen=True)
class VocabularySpecialization:
    """The share of each token id's occurrences that each leaf processes.

    Attributes:
      token: int64 [ids], the ids that occur often enough, ascending.
      counts: int64 [ids, leaves], occurrences of the id that the leaf processes.
      occurrences: int64 [ids], occurrences of the id, also those that no leaf processes.
    """

    token: np.ndarray
    counts: np.ndarray
    occurrences: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """N(id, leaf) / N(id), float64 [ids, leaves]."""
        return self.counts / self.occurrences[:, None]

    @property
    def by_leaf(self) -> np.ndarray:
        """The mean share of the ids that a leaf processes, float64 [leaves]; nan where it has none.

        Weighted by how often it processes each: the probability that of an occurrence that the leaf
        processes, another of the same id, drawn with replacement, is processed by it too.
        """
        total = self.counts.sum(axis=0)
        weighted = (self.counts * self.shares).sum(axis=0)
        return np.divide(weighted, total, out=np.full(len(total), np.nan), where=total > 0)

    @property
    def mean(self) -> float:
        """The mean over ids of their largest share; nan where there are no ids.

        An id that occurs n times has at least 1 / n by chance, so that rare ids make it large.
        """
        return float(self.shares.max(axis=1).mean()) if len(self.token) else float("nan")


def domain_specialization(trace: Trace, layer: str, label: str) -> DomainSpecialization:
    """Counts which leaves process the tokens of each label.

    Args:
      trace: the trace.
      layer: name of the layer.
      label: name of the label of examples; those without one are left out.

    Raises:
      ValueError: the trace has no such layer or label.
    """
    tokens = token_leaves(trace, layer, label)
    labels = tokens.choices.labels
    labeled = np.flatnonzero(tokens.label >= 0)
    counts = _summed(tokens.leaves[labeled], tokens.label[labeled], len(labels))
    number = np.bincount(tokens.label[labeled], minlength=len(labels))
    return DomainSpecialization(labels, counts, number)


def vocabulary_specialization(
    trace: Trace, layer: str, *, min_count: int = 10
) -> VocabularySpecialization:
    """Counts which leaves process each token id.

    Args:
      trace: the trace.
      layer: name of the layer.
      min_count: ids that occur less often are left out.

    Raises:
      ValueError: the trace has no such layer.
    """
    tokens = token_leaves(trace, layer)
    ids, number, occurrences = np.unique(tokens.token, return_inverse=True, return_counts=True)
    counts = _summed(tokens.leaves, number, len(ids))
    often = occurrences >= min_count
    return VocabularySpecialization(ids[often], counts[often], occurrences[often])


def _summed(leaves: sparse.csr_matrix, row: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns int64 [rows, leaves], the sum of the tokens' leaves over the tokens of each row."""
    tokens = np.arange(len(row))
    of_row = sparse.csr_matrix((np.ones_like(tokens), (row, tokens)), (num_rows, len(row)))
    return (of_row @ leaves).toarray()
