"""Sizes and dimensions of one level in one call: tokens per group, expert capacity."""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf
from hmoe.dispatch.dispatcher import Exchange
from hmoe.layer import groups
from hmoe.layer.capacity import expert_capacity
from hmoe.layer.level import Level
from hmoe.mesh.layout import MeshLayout, tensor_order, unsplit_name


@dataclasses.dataclass(frozen=True)
class GroupRules:
    """The rules of one call by which the tokens of a level are divided into groups.

    Attributes:
      layout: how dimensions are split over devices.
      num_examples: examples in the whole batch.
      train: whether training's capacity factors hold.
      exact_groups: whether a mesh that forces other groups than one device is an error.
      sequence_size: tokens of a sequence that makes a group of its own, with room for all of them
        at every expert. The slots that an expert has for it are such a group again one level in.
        None: groups and capacity are those of the level.
    """

    layout: MeshLayout
    num_examples: int
    train: bool
    exact_groups: bool
    sequence_size: int | None


@dataclasses.dataclass(frozen=True)
class LevelShape:
    """Sizes and dimensions of one level in one call.

    Attributes:
      leading: the dimensions before the groups: outer experts in the order of tensors, then batch
        dimensions that wait for further levels.
      outer_expert_dims: the outer experts among them, outermost first.
      exchange: the dimensions that swap.
      tokens_dim: S, the tokens of a group.
      capacity_dim: C, the slots of an expert for one group.
    """

    leading: list[mtf.Dimension]
    outer_expert_dims: list[mtf.Dimension]
    exchange: Exchange
    tokens_dim: mtf.Dimension
    capacity_dim: mtf.Dimension

    @property
    def expert_dims(self) -> list[mtf.Dimension]:
        """The experts of this level and of those above, outermost first."""
        return [*self.outer_expert_dims, self.exchange.experts]

    def into_groups(self, tensor: mtf.Tensor, trailing: list[mtf.Dimension]) -> mtf.Tensor:
        """Reshapes [*leading, ..., *trailing] -> [*leading, G, S, *trailing]."""
        inner = [self.exchange.group, self.tokens_dim]
        return mtf.reshape(tensor, mtf.Shape([*self.leading, *inner, *trailing]))


def level_shape(
    level: Level,
    depth: int,
    experts_name: str,
    token_dims: list[mtf.Dimension],
    outer_expert_dims: list[mtf.Dimension],
    batch_dims: list[mtf.Dimension],
    rules: GroupRules,
) -> LevelShape:
    """Sizes the groups and buffers of a level, and names the dimensions that it swaps.

    Args:
      level: the level.
      depth: its number, 0 for the first.
      experts_name: the name of its dimension of experts.
      token_dims: the dimensions of the tokens without the depth: outer experts, the batch
        dimensions, then all others.
      outer_expert_dims: the experts of the levels above, outermost first.
      batch_dims: the batch dimensions that are not exchanged yet; the last one is this level's.
      rules: the rules of the call.

    Returns:
      The shape.

    Raises:
      ValueError: groups or capacity cannot be as asked for.
    """
    # A third level has no batch dimension of its own, so it is not split.
    waiting, own = batch_dims[:-1], batch_dims[-1].name if batch_dims else "innermost_batch_unsplit"
    leading = tensor_order(outer_expert_dims) + waiting
    num_tokens = mtf.Shape(token_dims[len(leading) :]).size
    size = capacity = rules.sequence_size or 0
    if rules.sequence_size is None:
        num_positions = mtf.Shape(token_dims[len(outer_expert_dims) :]).size
        size = _group_size(level, num_tokens, num_positions, rules, rules.layout.num_splits(own))
        capacity = expert_capacity(
            level.name,
            size,
            level.capacity_factor(train=rules.train, depth=depth),
            level.num_experts,
            level.min_capacity,
        )
    num_groups = num_tokens // size
    exchange = Exchange(
        mtf.Dimension(own, num_groups),
        mtf.Dimension(f"{own}_unsplit", num_groups),
        mtf.Dimension(experts_name, level.num_experts),
        mtf.Dimension(unsplit_name(experts_name), level.num_experts),
    )
    # "_x" of "expert_x"; one level's dimension is called "experts".
    suffix = experts_name[len("expert") :] if experts_name.startswith("expert_") else ""
    return LevelShape(
        leading,
        outer_expert_dims,
        exchange,
        mtf.Dimension(f"group_size{suffix}", size),
        mtf.Dimension(f"expert_capacity{suffix}", capacity),
    )


def _group_size(
    level: Level, num_tokens: int, num_positions: int, rules: GroupRules, num_splits: int
) -> int:
    """Returns the number of tokens of a group.

    Args:
      level: the level.
      num_tokens: the tokens that groups are made of.
      num_positions: the positions for tokens of the whole batch, of one set of sibling experts.
      rules: the rules of the call.
      num_splits: the devices that groups are split over.
    """
    asked = groups.asked_in_tokens(level.group_size)
    if level.examples_per_group is not None:
        asked = groups.asked_in_examples(
            level.name, level.examples_per_group, rules.num_examples, num_positions, num_tokens
        )
    return groups.group_size(
        level.name,
        num_tokens,
        asked,
        num_splits,
        num_experts=level.num_experts,
        exact=rules.exact_groups,
    )
