"""Sizes of the levels of a mixture layer: groups, slots, and how a device shares them."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from hmoe.layer import groups
from hmoe.layer.capacity import exactly, expert_capacity
from hmoe.plan.costs import LayerPlan, LevelPlan
from hmoe.plan.layer_case import LayerCase, LevelCase

# Of each level, outermost first: experts, groups, tokens of a group, slots, choices, retries.
_SYMBOLS = (
    ("X", "G", "S", "C", "Kx", "Rx"),
    ("Y", "H", "T", "D", "Ky", "Ry"),
    ("Z", "I", "U", "P", "Kz", "Rz"),
)


class Dim(NamedTuple):
    """A dimension of a tensor.

    Attributes:
      symbol: how formulas write it.
      size: its size.
      axis: the mesh axis that it is split over; None if it is whole.
      splits: size of that axis; 1 if it is whole.
    """

    symbol: str
    size: int
    axis: str | None = None
    splits: int = 1

    @property
    def local(self) -> int:
        """What one device has of it."""
        return self.size // self.splits

    def whole(self) -> Dim:
        """Returns the same dimension by a name that no layout rule splits."""
        return Dim(self.symbol, self.size)


Dims = tuple[Dim, ...]


@dataclasses.dataclass(frozen=True)
class LevelSizes:
    """The dimensions of a level in one call.

    Attributes:
      case: the level.
      outer_experts: experts of the levels above, innermost first as in tensors, split.
      waiting: batch dimensions that wait for further levels, split.
      groups: the groups, split before the exchange.
      tokens: tokens of a group.
      experts: the experts, split behind the exchange.
      capacity: slots of an expert.
      choices: rounds of placement.
      retries: experts that a choice may fall back on; size 0 for none.
      num_choices: choices of a full token.
    """

    case: LevelCase
    outer_experts: Dims
    waiting: Dims
    groups: Dim
    tokens: Dim
    experts: Dim
    capacity: Dim
    choices: Dim
    retries: Dim
    num_choices: int

    @property
    def leading(self) -> Dims:
        """The dimensions of groups, with the outer experts in front."""
        return (*self.outer_experts, *self.waiting, self.groups)

    @property
    def each_token(self) -> Dims:
        """The dimensions of tokens."""
        return (*self.leading, self.tokens)

    @property
    def slots_of_groups(self) -> Dims:
        """The dimensions of slots before the exchange, where the groups are."""
        return (self.experts.whole(), *self.leading, self.capacity)

    @property
    def slots_of_experts(self) -> Dims:
        """The dimensions of slots behind the exchange, where the experts are."""
        groups = self.groups.whole()
        return (self.experts, *self.outer_experts, *self.waiting, groups, self.capacity)

    @property
    def all_experts(self) -> Dims:
        """The experts of this level and of those above, innermost first."""
        return (self.experts, *self.outer_experts)


def level_sizes(case: LayerCase) -> tuple[LevelSizes, ...]:
    """Returns the dimensions of all levels, outermost first.

    Raises:
      ValueError: groups or capacity cannot be as asked for.
    """
    batch_names = ["outer_batch", "batch"]
    batches = [
        split(case, "A", "outer_batch", case.outer_batch),
        split(case, "B", "batch", case.batch),
    ]
    # The tokens of one set of siblings, by batch dimensions and then all others.
    tokens: list[Dim] = [*batches, Dim("L", case.length)]
    outer: Dims = ()
    found = []
    for depth in range(len(case.levels)):
        name = batch_names.pop() if batch_names else "innermost_batch_unsplit"
        waiting = tuple(tokens[: len(batch_names)])
        level = _level(case, depth, outer, waiting, name, tokens)
        found.append(level)
        tokens = [*waiting, level.groups.whole(), level.capacity]
        outer = level.all_experts
    return tuple(found)


def split(case: LayerCase, symbol: str, name: str, size: int) -> Dim:
    """Returns a dimension as the layout splits it."""
    return Dim(symbol, size, case.axis(name), case.splits(name))


def _level(
    case: LayerCase, depth: int, outer: Dims, waiting: Dims, batch_name: str, tokens: list[Dim]
) -> LevelSizes:
    level, router = case.levels[depth], case.levels[depth].router
    num_tokens = math.prod(dim.size for dim in tokens[len(waiting) :])
    size = _group_size(case, level, num_tokens, math.prod(dim.size for dim in tokens), batch_name)
    capacity = expert_capacity(
        level.name, size, level.capacity_factor, level.num_experts, level.min_capacity
    )
    experts, group, token, slot, choice, retry = _SYMBOLS[depth]
    k = min(router.k, level.num_experts)
    # Partial tokens, which only the first level can be without, are placed in the second round.
    has_partial = case.has_importance or depth > 0
    rounds = max(k, 2) if has_partial else k
    return LevelSizes(
        case=level,
        outer_experts=outer,
        waiting=waiting,
        groups=split(case, group, batch_name, num_tokens // size),
        tokens=Dim(token, size),
        experts=split(case, experts, case.expert_names[depth], level.num_experts),
        capacity=Dim(slot, capacity),
        choices=Dim(choice, level.num_experts if router.experts_choose else rounds),
        retries=Dim(
            retry, 0 if router.experts_choose else min(router.retries, level.num_experts - k)
        ),
        num_choices=level.num_experts if router.experts_choose else k,
    )


def _group_size(
    case: LayerCase, level: LevelCase, num_tokens: int, num_positions: int, batch_name: str
) -> int:
    asked = groups.asked_in_tokens(level.group_size)
    if level.examples_per_group is not None:
        asked = groups.asked_in_examples(
            level.name,
            level.examples_per_group,
            case.outer_batch * case.batch,
            num_positions,
            num_tokens,
        )
    splits = case.splits(batch_name)
    size = groups.largest_group_size(num_tokens, asked.size, splits)
    if size < max(1, min(level.num_experts, asked.size, num_tokens // splits)):
        # Raises the layer's own error; otherwise it would warn again of what the layer warns of.
        groups.group_size(
            level.name, num_tokens, asked, splits, num_experts=level.num_experts, exact=False
        )
    return size


def layer_plan(case: LayerCase, name: str) -> LayerPlan:
    """Returns the sizes of a layer; slots and tokens are those of a step.

    Args:
      case: the layer.
      name: its name in the model.
    """
    sizes = level_sizes(case)
    first, last = sizes[0], sizes[-1]
    slots = math.prod(dim.size for dim in last.slots_of_experts)
    return LayerPlan(
        name=name,
        levels=tuple(_level_plan(each) for each in sizes),
        tokens=math.prod(dim.size for dim in first.each_token) * case.num_microbatches,
        slots=slots * case.num_microbatches,
        experts=math.prod(dim.size for dim in last.all_experts),
    )


def _level_plan(sizes: LevelSizes) -> LevelPlan:
    case = sizes.case
    asked = sizes.tokens.size * exactly(case.capacity_factor) / case.num_experts
    return LevelPlan(
        name=case.name,
        num_experts=case.num_experts,
        choices=None if case.router.experts_choose else sizes.num_choices,
        group_size=sizes.tokens.size,
        num_groups=math.prod(dim.size for dim in (*sizes.waiting, sizes.groups)),
        capacity=sizes.capacity.size,
        asked_capacity=min(float(sizes.tokens.size), float(asked)),
        axis=sizes.experts.axis,
        splits=sizes.experts.splits,
        asked_group_size=None if case.examples_per_group else case.group_size,
    )
