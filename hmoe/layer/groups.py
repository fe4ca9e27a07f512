"""Group sizes: how many tokens compete for the same buffers, in exact integers."""

from __future__ import annotations

import dataclasses
import logging
from fractions import Fraction

from hmoe.layer.capacity import exactly


def largest_group_size(num_tokens: int, requested: int, num_splits: int = 1) -> int:
    """Returns the largest size, at most `requested`, that divides the tokens into full groups.

    Args:
      num_tokens: tokens to divide into groups.
      requested: the size asked for.
      num_splits: the number of groups must be a multiple of this.

    Returns:
      A divisor of `num_tokens // num_splits`; 0 if `num_tokens` cannot be split.
    """
    if num_tokens % num_splits:
        return 0
    per_split = num_tokens // num_splits
    size = min(requested, per_split)
    while per_split % size:
        size -= 1
    return size


@dataclasses.dataclass(frozen=True)
class AskedSize:
    """The group size that a user asked for.

    Attributes:
      size: the size in tokens.
      field: the field that it was asked for with.
      per_unit: tokens in one unit of that field.
    """

    size: int
    field: str
    per_unit: float

    def setting(self, size: int) -> str:
        """Returns the setting that asks for a size, such as "group_size = 7"."""
        return f"{self.field} = {size / self.per_unit:g}"


def asked_in_tokens(size: int) -> AskedSize:
    """Returns what `Level.group_size` asks for."""
    return AskedSize(size, "group_size", 1.0)


def asked_in_examples(
    level: str, examples_per_group: float, num_examples: int, num_positions: int, num_tokens: int
) -> AskedSize:
    """Returns what `Level.examples_per_group` asks for.

    Args:
      level: name of the level, for messages.
      examples_per_group: `Level.examples_per_group`.
      num_examples: examples in the whole batch.
      num_positions: the level's positions for tokens of the whole batch, of one set of siblings.
      num_tokens: those of them that groups are made of.

    Returns:
      The size, rounded to the nearest integer, at least 1.

    Raises:
      ValueError: there are fewer examples than that.
    """
    per_example = Fraction(num_positions, num_examples)
    size = max(1, round(exactly(examples_per_group) * per_example))
    if size > num_tokens:
        raise ValueError(
            f"level '{level}': examples_per_group = {examples_per_group:g} makes groups of {size}"
            f" tokens, but there are {num_tokens} to make groups of, which is"
            f" {float(num_tokens / per_example):g} examples; use at most that many, or a"
            " larger batch"
        )
    return AskedSize(size, "examples_per_group", float(per_example))


def group_size(
    level: str,
    num_tokens: int,
    asked: AskedSize,
    num_splits: int,
    *,
    num_experts: int,
    exact: bool,
) -> int:
    """Returns the group size of a level on a mesh.

    Args:
      level: name of the level, for messages.
      num_tokens: tokens that arrive, over all devices of the batch dimension.
      asked: the size that the level asks for.
      num_splits: devices of the mesh axis over which the groups are split.
      num_experts: experts of the level; groups smaller than this cannot feed them.
      exact: whether another size than on one device is an error.

    Returns:
      The largest divisor of the tokens, at most the size asked for, whose number of
      groups is a multiple of `num_splits`.

    Raises:
      ValueError: no size divides the tokens, only useless ones do, or the mesh forces another size
        than one device and `exact` is set.
    """
    size = largest_group_size(num_tokens, asked.size, num_splits)
    if size == 0:
        raise ValueError(
            f"level '{level}': {num_tokens} tokens cannot be split over {num_splits} devices;"
            f" use a batch of which the tokens are a multiple of {num_splits}, or another layout"
        )
    possible = min(asked.size, num_tokens // num_splits)
    if size < min(num_experts, possible):
        raise ValueError(
            f"level '{level}': the {num_tokens // num_splits} tokens of each of {num_splits}"
            f" device(s) have no divisor between {num_experts} (the number of experts) and"
            f" {asked.setting(asked.size)}; the largest is {size}. Change the batch size or the"
            f" sequence length, or set {asked.setting(num_tokens // num_splits)}"
        )
    alone = largest_group_size(num_tokens, asked.size)
    if size != alone:
        _report_forced_size(level, size, alone, asked, num_splits, exact)
    return size


def _report_forced_size(
    level: str, size: int, alone: int, asked: AskedSize, num_splits: int, exact: bool
) -> None:
    said = (
        f"level '{level}': groups have {size} tokens on this mesh, but {alone} on one device,"
        f" since their number must be a multiple of {num_splits}; results differ where buffers"
        f" overflow. Set {asked.setting(size)} for the same numbers on both"
    )
    if exact:
        raise ValueError(said + " (exact_groups = True)")
    logging.getLogger(__name__).warning(said)
