"""What one level of the hierarchy is."""
from __future__ import annotations

from hmoe import checks
from hmoe.routers.base import Router

# Upstream's MoE2D: room to spare where tokens enter, none further in, where the
# buffers of the first level have already been filled unevenly.
_CAPACITY_FACTORS = {True: (1.25, 1.0), False: (2.0, 1.0)}


class Level:
    """One level: how many experts (or groups of experts), and who goes where.

    Attributes:
      name: how metrics and errors call this level; one word.
      num_experts: number of destinations at this level. Of a level that is not
        the last, each destination is itself a level of experts.
      router: scores the destinations and chooses among them.
      group_size: tokens that compete for the same buffers. A larger group drops
        fewer tokens at the same capacity and costs more to dispatch. The largest
        size that divides the tokens and is at most this one is used.
      capacity_factor_train: slots for a group, as a multiple of its tokens, in
        training. None: 1.25 at the first level, 1.0 below.
      capacity_factor_eval: the same in evaluation and prediction. None: 2.0 and
        1.0.
      min_capacity: slots that every expert has at least, per group.
      balance_loss_coef: weight of the balance loss in the training loss.
      z_loss_coef: weight of the router z-loss in the training loss.
      second_place_loss: whether the balance loss also counts second choices, at
        half the weight.
    """

    def __init__(
        self,
        name: str,
        *,
        num_experts: int,
        router: Router,
        group_size: int = 1024,
        capacity_factor_train: float | None = None,
        capacity_factor_eval: float | None = None,
        min_capacity: int = 4,
        balance_loss_coef: float = 0.01,
        z_loss_coef: float = 0.0,
        second_place_loss: bool = False,
    ):
        """Checks and keeps the settings; see the class for their meaning.

        Raises:
          ValueError: a setting is out of range.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"Level: name is {name!r}; it must be one word of letters, digits and _")
        where = f"level '{name}'"
        if not isinstance(router, Router):
            raise ValueError(
                f"{where}: router is {router!r}; it must be an object such as hmoe.TopKRouter(k=2)"
                " (in gin: @hmoe.TopKRouter(), with the brackets)")
        self.name = name
        self.num_experts = checks.positive_int(where, "num_experts", num_experts)
        self.router = router
        self.group_size = checks.positive_int(where, "group_size", group_size)
        self.capacity_factor_train = _optional_factor(
            where, "capacity_factor_train", capacity_factor_train)
        self.capacity_factor_eval = _optional_factor(
            where, "capacity_factor_eval", capacity_factor_eval)
        self.min_capacity = checks.non_negative_int(where, "min_capacity", min_capacity)
        self.balance_loss_coef = checks.non_negative_number(
            where, "balance_loss_coef", balance_loss_coef)
        self.z_loss_coef = checks.non_negative_number(where, "z_loss_coef", z_loss_coef)
        self.second_place_loss = checks.boolean(where, "second_place_loss", second_place_loss)
        if second_place_loss and not router.has_second_choice:
            raise ValueError(
                f"{where}: second_place_loss is True, but its router makes one choice a token;"
                " use k of at least 2 or second_place_loss = False")

    def capacity_factor(self, *, train: bool, depth: int) -> float:
        """The capacity factor of this level when it stands `depth` levels below the first."""
        asked = self.capacity_factor_train if train else self.capacity_factor_eval
        return _CAPACITY_FACTORS[train][min(depth, 1)] if asked is None else asked

    def __repr__(self) -> str:
        return f"Level({self.name!r}, num_experts={self.num_experts}, router={self.router!r})"


def _optional_factor(where: str, field: str, value: float | None) -> float | None:
    return None if value is None else checks.positive_number(where, field, value)
