"""Sizes and dimensions of one level in one call."""

from __future__ import annotations

import dataclasses

from hmoe.compat.stack import mtf
from hmoe.dispatch.dispatcher import Exchange
from hmoe.layer import groups
from hmoe.layer.level import Level
from hmoe.mesh.layout import MeshLayout, unsplit_name


@dataclasses.dataclass(frozen=True)
class Place:
    """Sizes and names of one level in one call.

    Attributes:
      leading: dimensions before the groups: outer experts, then batch dimensions that
        wait for further levels.
      outer_experts: the outer experts among them, innermost first.
      exchange: the dimensions that swap.
      group_size: S.
      capacity: C.
      suffix: of the names of S and C.
    """

    leading: list[mtf.Dimension]
    outer_experts: list[mtf.Dimension]
    exchange: Exchange
    group_size: int
    capacity: int
    suffix: str

    def into_groups(self, tensor: mtf.Tensor, trailing: list[mtf.Dimension]) -> mtf.Tensor:
        """[*leading, ..., *trailing] -> [*leading, G, S, *trailing]."""
        return groups.into_groups(
            tensor,
            self.leading,
            trailing,
            self.exchange.group.name,
            (self.exchange.group.size, self.group_size),
            f"group_size{self.suffix}",
        )


def place_of_level(
    level: Level,
    experts_name: str,
    shape: list[mtf.Dimension],
    outer_experts: list[mtf.Dimension],
    batch: list[mtf.Dimension],
    layout: MeshLayout,
    *,
    num_examples: int,
    capacity_factor: float,
    exact_groups: bool,
    sequence_size: int | None = None,
) -> Place:
    """Sizes of a level, and the dimensions that it swaps.

    Args:
      level: the level.
      experts_name: name of its dimension of experts.
      shape: dimensions of what arrives, without the depth; those of the outer experts
        and of the batch stand first.
      outer_experts: experts chosen above, innermost first.
      batch: batch dimensions not yet exchanged; the last one is this level's.
      layout: says over how many devices groups are split.
      num_examples: of the whole batch.
      capacity_factor: slots of a group as a multiple of its tokens.
      exact_groups: whether a mesh that forces other groups than one device is an error.
      sequence_size: tokens of a sequence that makes a group of its own, with room for all
        of it at every expert. The slots that an expert has for it are again such a group
        one level in. None: groups and capacity are those of the level.

    Returns:
      The place.

    Raises:
      ValueError: groups or capacity cannot be as asked for.
    """
    # A third level has no batch dimension of its own: nothing of it is split.
    waiting, own = batch[:-1], batch[-1].name if batch else "innermost_batch_unsplit"
    leading = outer_experts + waiting
    num_tokens = mtf.Shape(shape[len(leading) :]).size
    size = capacity = sequence_size or 0
    if not sequence_size:
        asked = groups.in_tokens(level.group_size)
        if level.examples_per_group is not None:
            num_places = mtf.Shape(shape[len(outer_experts) :]).size
            asked = groups.in_examples(
                level.name, level.examples_per_group, num_examples, num_places, num_tokens
            )
        size = groups.group_size(
            level.name,
            num_tokens,
            asked,
            layout.num_splits(own),
            num_experts=level.num_experts,
            exact=exact_groups,
        )
        capacity = groups.expert_capacity(
            level.name, size, capacity_factor, level.num_experts, level.min_capacity
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
    return Place(leading, outer_experts, exchange, size, capacity, suffix)
