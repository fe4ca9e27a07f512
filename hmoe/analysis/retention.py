"""Which experts of a layer to keep for a label, and which at random, as masks of its levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hmoe.analysis.routed import Routed


@dataclasses.dataclass(frozen=True)
class KeptExperts:
    """Which experts of a layer are kept.

    Attributes:
      masks: for each level, outermost first, float32 [X_outer, ..., X], 1 for an expert that is
        kept, else 0. A group in which no leaf is kept is left out at its own level; inside it all
        are 1, since no token comes there, and a router cannot choose among no experts.
    """

    masks: tuple[np.ndarray, ...]

    @property
    def leaves(self) -> np.ndarray:
        """Which leaves are kept, bool [leaves]: those that all levels keep."""
        kept: np.ndarray = np.ones((), bool)
        for mask in self.masks:
            kept = kept[..., None] & (mask > 0)
        return kept.ravel()

    @property
    def share(self) -> float:
        """The share of leaves that are kept."""
        return float(self.leaves.mean())


def use_by_label(choices: Routed) -> np.ndarray:
    """Returns the share of leaves in the choices of each label.

    Args:
      choices: the choices of a layer, with labels.

    Returns:
      float64 [labels, leaves]; rows sum to 1, or to 0 for a label without choices.
    """
    counts = choices.counts()
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def leaves_by_use(use: np.ndarray) -> np.ndarray:
    """Returns the leaves from the most to the least used; of equals the lower number first.

    Args:
      use: [leaves], how much each leaf is used.

    Returns:
      int64 [leaves].
    """
    return np.argsort(-np.asarray(use), kind="stable")


def groups_by_use(use: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Returns the outermost groups from the most to the least used, as `leaves_by_use`.

    Args:
      use: [leaves], how much each leaf is used; a group is used as much as its leaves together.
      sizes: experts of each level, outermost first.

    Returns:
      int64 [groups].
    """
    return leaves_by_use(np.reshape(use, (sizes[0], -1)).sum(axis=1))


def keep_leaves(leaves: Sequence[int] | np.ndarray, sizes: Sequence[int]) -> KeptExperts:
    """Keeps these leaves.

    Args:
      leaves: numbers of leaves, at least one.
      sizes: experts of each level, outermost first.

    Raises:
      ValueError: no leaf is kept, or the layer has no such leaf.
    """
    total = int(np.prod(sizes))
    _check_numbers("leaf", "leaves", leaves, total)
    flat = np.zeros(total, bool)
    flat[np.asarray(leaves, np.int64)] = True
    kept: np.ndarray = flat.reshape(tuple(sizes))
    masks = []
    while kept.ndim:
        has_any = np.logical_or.reduce(kept, axis=-1)
        masks.append((kept | ~has_any[..., None]).astype(np.float32))
        kept = has_any
    return KeptExperts(tuple(reversed(masks)))


def keep_groups(groups: Sequence[int] | np.ndarray, sizes: Sequence[int]) -> KeptExperts:
    """Keeps all experts of these outermost groups; with one level a group is a leaf.

    Args:
      groups: numbers of groups, at least one.
      sizes: experts of each level, outermost first.

    Raises:
      ValueError: no group is kept, or the layer has no such group.
    """
    _check_numbers("group", "groups", groups, sizes[0])
    leaves = np.arange(int(np.prod(sizes))).reshape(sizes[0], -1)
    return keep_leaves(leaves[np.asarray(groups, np.int64)].ravel(), sizes)


def keep_all(sizes: Sequence[int]) -> KeptExperts:
    """Keeps all experts."""
    return keep_groups(range(sizes[0]), sizes)


def without_group(group: int, sizes: Sequence[int]) -> KeptExperts:
    """Keeps all but one outermost group.

    Raises:
      ValueError: the layer has no such group, or no other.
    """
    _check_numbers("group", "groups", [group], sizes[0])
    return keep_groups([each for each in range(sizes[0]) if each != group], sizes)


def top_groups(use: np.ndarray, sizes: Sequence[int], num_groups: int) -> KeptExperts:
    """Keeps the most used of the outermost groups.

    Args:
      use: [leaves], how much each leaf is used.
      sizes: experts of each level, outermost first.
      num_groups: how many groups to keep.

    Raises:
      ValueError: the number is not between 1 and that of the groups.
    """
    _check_amount(num_groups, sizes)
    return keep_groups(groups_by_use(use, sizes)[:num_groups], sizes)


def top_leaves(use: np.ndarray, sizes: Sequence[int], num_groups: int) -> KeptExperts:
    """Keeps the most used leaves, as many as so many groups have; otherwise as `top_groups`."""
    _check_amount(num_groups, sizes)
    return keep_leaves(leaves_by_use(use)[: _num_leaves(num_groups, sizes)], sizes)


def random_groups(sizes: Sequence[int], num_groups: int, seed: int) -> KeptExperts:
    """Keeps outermost groups at random.

    Args:
      sizes: experts of each level, outermost first.
      num_groups: how many groups to keep.
      seed: decides which.

    Raises:
      ValueError: the number is not between 1 and that of the groups.
    """
    _check_amount(num_groups, sizes)
    return keep_groups(np.random.default_rng(seed).permutation(sizes[0])[:num_groups], sizes)


def random_leaves(sizes: Sequence[int], num_groups: int, seed: int) -> KeptExperts:
    """Keeps leaves at random, as many as so many groups have; otherwise as `random_groups`."""
    _check_amount(num_groups, sizes)
    order = np.random.default_rng(seed).permutation(int(np.prod(sizes)))
    return keep_leaves(order[: _num_leaves(num_groups, sizes)], sizes)


def _num_leaves(num_groups: int, sizes: Sequence[int]) -> int:
    return num_groups * int(np.prod(sizes[1:], dtype=np.int64))


def _check_amount(num_groups: int, sizes: Sequence[int]) -> None:
    if not 1 <= num_groups <= sizes[0]:
        raise ValueError(
            f"cannot keep {num_groups} of {sizes[0]} outer groups; keep between 1 and {sizes[0]}"
        )


def _check_numbers(one: str, many: str, numbers: Sequence[int] | np.ndarray, total: int) -> None:
    if not len(numbers):
        raise ValueError(f"no {one} is kept; keep at least one of {total}")
    wrong = [int(each) for each in numbers if not 0 <= each < total]
    if wrong:
        raise ValueError(f"there is no {one} {wrong[0]} among {total} {many}, numbered from 0")
